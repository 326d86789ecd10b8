"""Published data sets as arrays: files found on disk, else downloaded; checked, then decoded.

The arrays are those of the archive, in its order and types; :mod:`heavytail.experiments.data` makes
of them what a network takes.
"""

import gzip
import hashlib
import io
import os
import tarfile
import warnings
import zipfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import ModuleType

import numpy as np
import numpy.typing as npt

Arrays = tuple[npt.NDArray[np.generic], ...]  # x_train, y_train, x_test, y_test
Bytes = npt.NDArray[np.uint8]
Root = str | os.PathLike[str] | None

_ECG5000_URL = "https://www.timeseriesclassification.com/aeon-toolkit/ECG5000.zip"
_ECG5000_ARRAYS = ("X_train", "y_train", "X_test", "y_test")
# The archive publishes no checksum of its zip: these are of the decoded arrays, as little-endian
# float32 and int64.
_ECG5000_SHA256 = {
    "X_train": "abe21aae2b8cb8d5d1c71db2799ac163897a25ff7e37c693f2569a6035d917fc",
    "y_train": "e055512ceb0183f598cb294294c5846df49e7bc4c0e09eb7a3dcc8b38b41c07d",
    "X_test": "50ba9f70737727e6bc0cfced876297936a0ae8bebe95ccd647780b2654093334",
    "y_test": "bd808ac605f71d4271f1ae33c887c3d3eee67c4230e33d5669437c3258d28526",
}


def ecg5000(root: Root) -> Arrays:
    """Return series of shape (N, 140), floats, and their classes 1 .. 5, shape (N,)."""
    npy = [f"{array}.npy" for array in _ECG5000_ARRAYS]
    folder = _find("ecg5000", root, npy, ["ECG5000.zip"])
    downloaded = folder is None
    if folder is None:
        folder = _download("ecg5000", {"ECG5000.zip": None}, [_ECG5000_URL])
    try:
        if _holds(folder, npy):
            arrays: Arrays = tuple(np.load(folder / file, allow_pickle=False) for file in npy)
        else:
            arrays = _decode_ecg5000(folder / "ECG5000.zip")
        _check_ecg5000(arrays, str(folder))
    except Exception:
        if downloaded:  # a wrong file must not be found again
            (folder / "ECG5000.zip").unlink()
        raise
    return arrays


def _decode_ecg5000(path: Path) -> Arrays:
    """Read the archive's text: a row an example, its label first."""
    arrays: list[npt.NDArray[np.generic]] = []
    with zipfile.ZipFile(path) as archive:
        for part in ("TRAIN", "TEST"):
            table = np.loadtxt(io.BytesIO(archive.read(f"ECG5000_{part}.txt")))
            arrays += [table[:, 1:].astype(np.float32), table[:, 0].astype(np.int64)]
    return tuple(arrays)


def _check_ecg5000(arrays: Arrays, origin: str) -> None:
    for name, array in zip(_ECG5000_ARRAYS, arrays, strict=True):
        if name.startswith("X") and array.shape[1:] != (140,):
            raise ValueError(
                f"{name} of ECG5000 in {origin} must have 140 columns, got {array.shape}"
            )
        wanted = np.dtype("<f4" if name.startswith("X") else "<i8")
        digest = hashlib.sha256(np.ascontiguousarray(array, dtype=wanted).tobytes()).hexdigest()
        if digest != _ECG5000_SHA256[name]:
            raise ValueError(
                f"{name} of ECG5000 in {origin} must have the sha256 {_ECG5000_SHA256[name]}, "
                f"got {digest}: not the archive's data"
            )


_MNIST_URLS = (
    "http://yann.lecun.com/exdb/mnist/",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",  # a mirror: the home often refuses
)
# Published by the data set's mirrors, as md5 too.
_MNIST_SHA256 = {
    f"{part}-ubyte.gz": digest
    for part, digest in {
        "train-images-idx3": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "train-labels-idx1": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "t10k-images-idx3": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "t10k-labels-idx1": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    }.items()
}


def mnist(root: Root) -> tuple[Bytes, ...]:
    """Return images of shape (N, 28, 28), and their digits, shape (N,)."""
    folder = _find("mnist", root, _MNIST_SHA256)
    if folder is None:
        folder = _download("mnist", dict(_MNIST_SHA256), list(_MNIST_URLS))
    return tuple(_decode_idx(folder / file, digest) for file, digest in _MNIST_SHA256.items())


def _decode_idx(path: Path, digest: str) -> Bytes:
    """Read a gzipped idx file of bytes: 0 0 8 (the type) and the number of dimensions, sizes."""
    _check_file(path, "sha256", digest)
    raw = gzip.decompress(path.read_bytes())
    dimensions = raw[3]
    sizes = np.frombuffer(raw, dtype=">u4", count=dimensions, offset=4).astype(int)
    return np.frombuffer(raw, dtype=np.uint8, offset=4 + 4 * dimensions).reshape(sizes)


@dataclass(frozen=True)
class _Cifar:
    """The binary archive of one of the two sets.

    Attributes:
        file: its name.
        md5: its checksum, as its page publishes it.
        train: the parts of the archive with the training examples, in their order.
        test: the part with the test examples.
        labels: bytes before an image, of which the last is the label that is meant.
    """

    file: str
    md5: str
    train: tuple[str, ...]
    test: str
    labels: int


_CIFAR_URL = "https://www.cs.toronto.edu/~kriz/"
_CIFAR = {
    "cifar10": _Cifar(
        "cifar-10-binary.tar.gz",
        "c32a1d4ab5d03f1284b67883e8d13530",
        tuple(f"data_batch_{batch}.bin" for batch in range(1, 6)),
        "test_batch.bin",
        labels=1,
    ),
    "cifar100": _Cifar(
        "cifar-100-binary.tar.gz",
        "03b5dce01913d631647c71ecec9e9cb8",
        ("train.bin",),
        "test.bin",
        labels=2,  # one of 20 coarse classes, then one of 100 fine ones
    ),
}
_CIFAR_IMAGE = (3, 32, 32)


def cifar(name: str, root: Root) -> tuple[Bytes, ...]:
    """Return images of shape (N, 3, 32, 32), and their labels, shape (N,), of a set of _CIFAR."""
    archive = _CIFAR[name]
    folder = _find(name, root, [archive.file])
    if folder is None:
        folder = _download(name, {archive.file: f"md5:{archive.md5}"}, [_CIFAR_URL])
    _check_file(folder / archive.file, "md5", archive.md5)
    return _decode_cifar(folder / archive.file, archive)


def _decode_cifar(path: Path, archive: _Cifar) -> tuple[Bytes, ...]:
    """Read the archive where it is, in one pass: nothing is unpacked to disk."""
    parts: dict[str, Bytes] = {}
    with tarfile.open(path, "r:gz") as members:
        for member in members:
            name = PurePosixPath(member.name).name
            wanted = member.isfile() and name in (*archive.train, archive.test)
            if wanted and (content := members.extractfile(member)):
                parts[name] = np.frombuffer(content.read(), dtype=np.uint8)

    def decoded(*names: str) -> tuple[Bytes, Bytes]:
        examples = np.concatenate([parts.pop(name) for name in names])
        examples = examples.reshape(-1, archive.labels + int(np.prod(_CIFAR_IMAGE)))
        images = examples[:, archive.labels :].reshape(-1, *_CIFAR_IMAGE)
        return images, examples[:, archive.labels - 1]

    return (*decoded(*archive.train), *decoded(archive.test))


def _check_file(path: Path, algorithm: str, digest: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, algorithm).hexdigest()
    if found != digest:
        raise ValueError(f"{path} must have the {algorithm} {digest}, got {found}")


def _find(name: str, root: Root, *files: Collection[str]) -> Path | None:
    """Return the first folder of the data set that holds one of the sets of files."""
    for folder in _folders(name, root):
        if any(_holds(folder, wanted) for wanted in files):
            return folder
    return None


def _holds(folder: Path, files: Collection[str]) -> bool:
    return all((folder / file).is_file() for file in files)


def _folders(name: str, root: Root) -> Iterator[Path]:
    """Yield where the files of a data set may be; the machine's cache folder comes last."""
    for place in (root, os.environ.get("HEAVYTAIL_DATA") or None):
        if place is not None:
            yield Path(place).expanduser() / name
    yield Path(_pooch().os_cache("heavytail")) / name


def _pooch() -> ModuleType:
    """Import pooch, which few calls need, without its progress bar's remark on notebooks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pooch
    module: ModuleType = pooch
    return module


def _download(name: str, files: dict[str, str | None], urls: list[str]) -> Path:
    """Fetch the files (name -> checksum, None where unknown) into the cache, from the first url.

    A checksum is a sha256, or begins with ``"md5:"``; a file with another one is not kept. A url
    that ends in a slash is a folder to which the file's name is added.
    """
    *_, cache = _folders(name, None)
    for file, digest in files.items():
        failures = []
        for url in urls:
            source = url + file if url.endswith("/") else url
            try:
                _pooch().retrieve(source, digest, fname=file, path=cache, progressbar=True)
                break
            except (OSError, ValueError) as failure:  # unreachable, or another checksum
                failures.append(f"{source}: {failure}")
        else:
            raise FileNotFoundError(
                f"{name} is not on this machine and could not be downloaded. Put {list(files)} "
                f"into a folder named {name!r} and name the folder above it, as root= or in "
                f"$HEAVYTAIL_DATA. What failed: " + "; ".join(failures)
            )
    return cache
