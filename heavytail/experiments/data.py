"""Data sets as tensors: digits (embedded), ECG5000 and MNIST (found on disk, else downloaded)."""

import gzip
import hashlib
import io
import os
import warnings
import zipfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from heavytail import _checks

_Arrays = tuple[npt.NDArray[np.generic], ...]  # x_train, y_train, x_test, y_test


@dataclass(frozen=True)
class Dataset:
    """A classification task, split into training and test examples.

    Attributes:
        name: as given to :func:`load`.
        x_train: shape (N, d), float32 unless asked otherwise.
        y_train: shape (N,), int64, labels 0 .. classes - 1.
        x_test: shape (M, d), dtype of ``x_train``.
        y_test: shape (M,), int64.
        classes: number of classes.
    """

    name: str
    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    classes: int

    @property
    def inputs(self) -> int:
        """Dimension d of an example."""
        return self.x_train.shape[1]

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> "Dataset":
        """Return the data on another device, the examples in another floating-point type."""
        return replace(
            self,
            x_train=self.x_train.to(device=device, dtype=dtype),
            y_train=self.y_train.to(device=device),
            x_test=self.x_test.to(device=device, dtype=dtype),
            y_test=self.y_test.to(device=device),
        )


def load(name: str, root: str | os.PathLike[str] | None = None) -> Dataset:
    """Load a data set.

    ``"digits"``
        1797 images of 8 x 8 pixels, 10 classes (E. Alpaydin, C. Kaynak; it ships with
        scikit-learn). Every fifth image is a test image; pixels are standardised by the mean
        and standard deviation of all training pixels.
    ``"ecg5000"``
        Heartbeats of 140 samples, 500 for training and 4500 for testing, each z-normalised by
        the archive (UCR Time Series Classification Archive, Dau et al. 2019). Two classes:
        the archive's class 1 (normal) is 0, its classes 2 to 5 are 1.
    ``"mnist"``
        Images of 28 x 28 pixels, 60,000 for training and 10,000 for testing, 10 classes (LeCun
        et al. 1998), scaled to [0, 1] and then (x - 0.1307) / 0.3081.

    The files of the last two are looked for in ``root/name``, then in ``$HEAVYTAIL_DATA/name``,
    then in the cache folder of the machine, into which they are else downloaded. Whatever their
    origin, they must have the known checksum.

    Args:
        name: one of the above.
        root: folder that holds the folder ``name``; optional.

    Raises:
        TypeError, ValueError: on another name, or files with another checksum.
        FileNotFoundError: if the files are nowhere and cannot be downloaded; the message says
            which files to put where.
    """
    _checks.one_of("name", name, _LOADERS)
    return _LOADERS[name](root)


def _digits(root: str | os.PathLike[str] | None) -> Dataset:
    from sklearn.datasets import load_digits  # slow to import, and needed here only

    x, y = load_digits(return_X_y=True)
    test = np.arange(len(x)) % 5 == 4
    mean, deviation = x[~test].mean(), x[~test].std()
    x = (x - mean) / deviation
    return _dataset("digits", (x[~test], y[~test], x[test], y[test]), classes=10)


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


def _ecg5000(root: str | os.PathLike[str] | None) -> Dataset:
    npy = [f"{array}.npy" for array in _ECG5000_ARRAYS]
    folder = _find("ecg5000", root, npy, ["ECG5000.zip"])
    downloaded = folder is None
    if folder is None:
        folder = _download("ecg5000", {"ECG5000.zip": None}, [_ECG5000_URL])
    try:
        if _holds(folder, npy):
            arrays: _Arrays = tuple(np.load(folder / file, allow_pickle=False) for file in npy)
        else:
            arrays = _decode_ecg5000(folder / "ECG5000.zip")
        _check_ecg5000(arrays, str(folder))
    except Exception:
        if downloaded:  # a wrong file must not be found again
            (folder / "ECG5000.zip").unlink()
        raise
    x_train, y_train, x_test, y_test = arrays
    return _dataset("ecg5000", (x_train, y_train != 1, x_test, y_test != 1), classes=2)


def _decode_ecg5000(path: Path) -> _Arrays:
    """Read the archive's text: a row an example, its label first."""
    arrays: list[npt.NDArray[np.generic]] = []
    with zipfile.ZipFile(path) as archive:
        for part in ("TRAIN", "TEST"):
            table = np.loadtxt(io.BytesIO(archive.read(f"ECG5000_{part}.txt")))
            arrays += [table[:, 1:].astype(np.float32), table[:, 0].astype(np.int64)]
    return tuple(arrays)


def _check_ecg5000(arrays: _Arrays, origin: str) -> None:
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


def _mnist(root: str | os.PathLike[str] | None) -> Dataset:
    folder = _find("mnist", root, _MNIST_SHA256)
    if folder is None:
        folder = _download("mnist", dict(_MNIST_SHA256), list(_MNIST_URLS))
    x_train, y_train, x_test, y_test = (
        _decode_idx(folder / file, digest) for file, digest in _MNIST_SHA256.items()
    )

    def standardised(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        pixels = images.reshape(len(images), -1).astype(np.float32)
        pixels /= 255  # in place: in float64 the training images would take 376 MB
        pixels -= 0.1307
        pixels /= 0.3081
        return pixels

    arrays = (standardised(x_train), y_train, standardised(x_test), y_test)
    return _dataset("mnist", arrays, classes=10)


def _decode_idx(path: Path, digest: str) -> npt.NDArray[np.uint8]:
    """Read a gzipped idx file of bytes: 0 0 8 (the type) and the number of dimensions, sizes."""
    packed = path.read_bytes()
    if (found := hashlib.sha256(packed).hexdigest()) != digest:
        raise ValueError(f"{path} must have the sha256 {digest}, got {found}")
    raw = gzip.decompress(packed)
    dimensions = raw[3]
    sizes = np.frombuffer(raw, dtype=">u4", count=dimensions, offset=4).astype(int)
    return np.frombuffer(raw, dtype=np.uint8, offset=4 + 4 * dimensions).reshape(sizes)


def _find(name: str, root: str | os.PathLike[str] | None, *files: Collection[str]) -> Path | None:
    """Return the first folder of the data set that holds one of the sets of files."""
    for folder in _folders(name, root):
        if any(_holds(folder, wanted) for wanted in files):
            return folder
    return None


def _holds(folder: Path, files: Collection[str]) -> bool:
    return all((folder / file).is_file() for file in files)


def _folders(name: str, root: str | os.PathLike[str] | None) -> Iterator[Path]:
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
    """Fetch the files (name -> sha256, None where unknown) into the cache, from the first url.

    A url that ends in a slash is a folder to which the file's name is added.
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


def _dataset(name: str, arrays: _Arrays, classes: int) -> Dataset:
    x_train, y_train, x_test, y_test = arrays
    return Dataset(
        name,
        torch.as_tensor(np.array(x_train, dtype=np.float32)),
        torch.as_tensor(np.array(y_train, dtype=np.int64)),
        torch.as_tensor(np.array(x_test, dtype=np.float32)),
        torch.as_tensor(np.array(y_test, dtype=np.int64)),
        classes,
    )


_LOADERS: dict[str, Callable[[str | os.PathLike[str] | None], Dataset]] = {
    "digits": _digits,
    "ecg5000": _ecg5000,
    "mnist": _mnist,
}
