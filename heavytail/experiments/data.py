"""Data sets as tensors: digits, ECG5000, MNIST, CIFAR-10 and CIFAR-100.

Digits ship with scikit-learn. The files of the others are found on disk, else downloaded; what is
used has the known checksum, and nothing in a file is run as code.
"""

import gzip
import hashlib
import io
import math
import os
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from heavytail import _check

Root = str | os.PathLike[str] | None

_Array = npt.NDArray[Any]
_Arrays = tuple[_Array, _Array, _Array, _Array]  # x_train, y_train, x_test, y_test


@dataclass(frozen=True)
class Dataset:
    """A classification task, split into training and test examples.

    Attributes:
        name: as given to :func:`load`.
        x_train: shape (N, ...), float32 unless asked otherwise; an example is a vector, shape
            (d,), or an image, shape (colours, height, width).
        y_train: shape (N,), int64, labels 0 .. classes - 1.
        x_test: shape (M, ...), dtype of ``x_train``.
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
    def shape(self) -> tuple[int, ...]:
        """Shape of an example."""
        return tuple(self.x_train.shape[1:])

    @property
    def inputs(self) -> int:
        """Number d of coordinates of an example, whatever its shape."""
        return math.prod(self.shape)

    def flat(self) -> "Dataset":
        """Return the data with the examples as vectors, shape (N, d), in the same memory.

        The vector of an image has its colours one after the other, each row by row.
        """
        return replace(self, x_train=self.x_train.flatten(1), x_test=self.x_test.flatten(1))

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


def load(name: str, root: Root = None) -> Dataset:
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
    ``"mnist-centred"``
        The same less the mean of each image: its pixels sum to 0, up to rounding. Noise of type
        I, a multiple of (1, ..., 1) on each column of the first layer, then changes nothing that
        the network computes.
    ``"cifar10"``, ``"cifar100"``
        Colour images, shape (3, 32, 32), 50,000 for training and 10,000 for testing, 10 and 100
        classes (Krizhevsky 2009), scaled to [0, 1] and then, a colour at a time, less its mean
        and over its standard deviation. :meth:`Dataset.flat` makes vectors of them.
    ``"cifar10-subset"``
        The first 7,000 training and 1,000 test images of CIFAR-10, prepared in the same way:
        accuracies on it are not comparable with those on CIFAR-10.

    Examples are vectors but for CIFAR. Files are looked for below ``root``, then below
    ``$HEAVYTAIL_DATA``, then in the machine's cache, into which they are else downloaded:
    ``ecg5000/ECG5000.zip`` (or ``X_train.npy``, ``y_train.npy``, ``X_test.npy``, ``y_test.npy``),
    the four original ``.gz`` files in ``mnist``, ``cifar10/cifar-10-binary.tar.gz``,
    ``cifar100/cifar-100-binary.tar.gz``. The subset is read from
    ``cifar10_subset/cifar10_train7000_test1000.npz`` where that is, else cut from CIFAR-10.

    Args:
        name: one of the above.
        root: folder that holds the data set's folder; optional.

    Raises:
        TypeError, ValueError: on another name, or a file with other content, which is named.
        FileNotFoundError: if the files are nowhere and cannot be downloaded; the message says
            which files to put where.
    """
    _check.one_of("name", name, _LOADERS)
    return replace(_LOADERS[name](root), name=name)


def _dataset(arrays: _Arrays, classes: int) -> Dataset:
    x_train, y_train, x_test, y_test = (
        torch.from_numpy(np.require(array, dtype, ["C", "W"]))  # a copy where it must be
        for array, dtype in zip(arrays, [np.float32, np.int64] * 2, strict=True)
    )
    return Dataset("", x_train, y_train, x_test, y_test, classes)


def _standardised(images: _Array, mean: npt.ArrayLike, deviation: npt.ArrayLike) -> _Array:
    """Return bytes scaled to [0, 1], less the mean, over the standard deviation."""
    pixels = images.astype(np.float32)
    pixels /= 255  # in place: in float64 the training images of CIFAR would take 1.2 GB
    pixels -= np.asarray(mean, dtype=np.float32)
    pixels /= np.asarray(deviation, dtype=np.float32)
    return pixels


def _digits(root: Root) -> Dataset:
    from sklearn.datasets import load_digits  # slow to import, and needed here only

    x, y = load_digits(return_X_y=True)
    test = np.arange(len(x)) % 5 == 4
    mean, deviation = x[~test].mean(), x[~test].std()
    x = (x - mean) / deviation
    return _dataset((x[~test], y[~test], x[test], y[test]), classes=10)


# ECG5000. The archive publishes no checksum of its zip: these are of the decoded arrays.
_ECG5000_URL = "https://www.timeseriesclassification.com/aeon-toolkit/"
_ECG5000 = {
    "X_train": ("<f4", "abe21aae2b8cb8d5d1c71db2799ac163897a25ff7e37c693f2569a6035d917fc"),
    "y_train": ("<i8", "e055512ceb0183f598cb294294c5846df49e7bc4c0e09eb7a3dcc8b38b41c07d"),
    "X_test": ("<f4", "50ba9f70737727e6bc0cfced876297936a0ae8bebe95ccd647780b2654093334"),
    "y_test": ("<i8", "bd808ac605f71d4271f1ae33c887c3d3eee67c4230e33d5669437c3258d28526"),
}


def _ecg5000(root: Root) -> Dataset:
    npy, archive = dict.fromkeys(f"{name}.npy" for name in _ECG5000), {"ECG5000.zip": None}
    found = _on_disk("ecg5000", root, npy, archive)
    paths = found or _downloaded("ecg5000", archive, _ECG5000_URL)
    try:
        if len(paths) == len(npy):
            arrays = [np.load(path, allow_pickle=False) for path in paths]
        else:
            arrays = _decode_ecg5000(paths[0])
        x_train, y_train, x_test, y_test = map(_as_published, _ECG5000.items(), arrays)
    except Exception as failure:  # what a damaged file raises depends on where it is damaged
        if not found:
            paths[0].unlink()  # the next call downloads it again
        names = ", ".join(map(str, paths))
        raise ValueError(f"{names} must be ECG5000 as the archive has it: {failure}") from failure
    return _dataset((x_train, y_train != 1, x_test, y_test != 1), classes=2)


def _decode_ecg5000(path: Path) -> list[_Array]:
    """Read the archive's text: a row an example, its label first."""
    arrays = []
    with zipfile.ZipFile(path) as archive:
        for part in ("TRAIN", "TEST"):
            table = np.loadtxt(io.BytesIO(archive.read(f"ECG5000_{part}.txt")), ndmin=2)
            arrays += [table[:, 1:], table[:, 0].astype(np.int64)]
    return arrays


def _as_published(published: tuple[str, tuple[str, str]], array: _Array) -> _Array:
    """Return the array in the type of its checksum, which it must have."""
    name, (dtype, digest) = published
    array = array.astype(dtype, casting="same_kind")
    found = hashlib.sha256(array.tobytes()).hexdigest()
    if found != digest:
        raise ValueError(f"{name} must have the sha256 {digest}, got {found}")
    return array


_MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"  # a mirror: the home often refuses
_MNIST = {
    f"{part}-ubyte.gz": f"sha256:{digest}"
    for part, digest in {
        "train-images-idx3": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "train-labels-idx1": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "t10k-images-idx3": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "t10k-labels-idx1": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    }.items()
}


def _mnist(root: Root, centred: bool = False) -> Dataset:
    paths = _on_disk("mnist", root, _MNIST) or _downloaded("mnist", _MNIST, _MNIST_URL)
    x_train, y_train, x_test, y_test = map(_idx, paths)

    def prepared(images: _Array) -> _Array:
        pixels = _standardised(images.reshape(len(images), -1), 0.1307, 0.3081)
        if centred:
            pixels -= pixels.mean(1, dtype=np.float64, keepdims=True)
        return pixels

    return _dataset((prepared(x_train), y_train, prepared(x_test), y_test), classes=10)


def _idx(path: Path) -> _Array:
    """Read a gzipped idx file of bytes: 0 0 8 (the type) and the number of dimensions, sizes."""
    raw = gzip.decompress(path.read_bytes())
    dimensions = raw[3]
    sizes = np.frombuffer(raw, dtype=">u4", count=dimensions, offset=4).astype(int)
    return np.frombuffer(raw, dtype=np.uint8, offset=4 + 4 * dimensions).reshape(sizes)


@dataclass(frozen=True)
class _Cifar:
    file: str  # the binary archive
    checksum: str  # as its page publishes it
    labels: int  # bytes before an image, of which the last is the label that is meant
    classes: int
    mean: tuple[float, float, float]  # of each colour, scaled to [0, 1]: as in the paper's code
    deviation: tuple[float, float, float]


_CIFAR_URL = "https://www.cs.toronto.edu/~kriz/"
_CIFAR = {
    "cifar10": _Cifar(
        file="cifar-10-binary.tar.gz",
        checksum="md5:c32a1d4ab5d03f1284b67883e8d13530",
        labels=1,
        classes=10,
        mean=(0.491, 0.482, 0.447),
        deviation=(0.247, 0.243, 0.262),
    ),
    "cifar100": _Cifar(
        file="cifar-100-binary.tar.gz",
        checksum="md5:03b5dce01913d631647c71ecec9e9cb8",
        labels=2,  # one of 20 coarse classes, then one of 100 fine ones
        classes=100,
        mean=(0.5071, 0.4867, 0.4408),
        deviation=(0.2675, 0.2565, 0.2761),
    ),
}
_SUBSET = {
    "cifar10_train7000_test1000.npz": (
        "sha256:fbe432dfc2c01d9dd16d375ae5a824a1b9752d0f2698a982445e8fdca206a23a"
    )
}


def _cifar(root: Root, name: str) -> Dataset:
    return _coloured(_decode_cifar(root, name), _CIFAR[name])


def _cifar10_subset(root: Root) -> Dataset:
    if paths := _on_disk("cifar10_subset", root, _SUBSET):
        with np.load(paths[0], allow_pickle=False) as parts:
            x_train, y_train, x_test, y_test = parts.values()
        x_train, x_test = (x.transpose(0, 3, 1, 2) for x in (x_train, x_test))
    else:
        x_train, y_train, x_test, y_test = _decode_cifar(root, "cifar10")
    subset = x_train[:7000], y_train[:7000], x_test[:1000], y_test[:1000]
    return _coloured(subset, _CIFAR["cifar10"])


def _coloured(arrays: _Arrays, source: _Cifar) -> Dataset:
    """Return images of bytes, shape (N, 3, 32, 32), each colour standardised."""
    x_train, y_train, x_test, y_test = arrays
    mean, deviation = np.reshape((source.mean, source.deviation), (2, 3, 1, 1))
    x_train, x_test = (_standardised(images, mean, deviation) for images in (x_train, x_test))
    return _dataset((x_train, y_train, x_test, y_test), source.classes)


def _decode_cifar(root: Root, name: str) -> _Arrays:
    """Read the archive where it is, in one pass: nothing is unpacked to disk."""
    source = _CIFAR[name]
    files = {source.file: source.checksum}
    (path,) = _on_disk(name, root, files) or _downloaded(name, files, _CIFAR_URL)
    parts: dict[str, _Array] = {}
    with tarfile.open(path, "r:gz") as members:
        for member in members:
            part = PurePosixPath(member.name)
            if part.suffix == ".bin" and (content := members.extractfile(member)):
                parts[part.name] = np.frombuffer(content.read(), dtype=np.uint8)
    test = {part for part in parts if part.startswith("test")}

    def decoded(names: set[str]) -> tuple[_Array, _Array]:
        examples = np.concatenate([parts.pop(part) for part in sorted(names)])
        examples = examples.reshape(-1, source.labels + 3 * 32 * 32)
        return examples[:, source.labels :].reshape(-1, 3, 32, 32), examples[:, source.labels - 1]

    return (*decoded(parts.keys() - test), *decoded(test))


def _on_disk(folder: str, root: Root, *sets: Mapping[str, str | None]) -> list[Path] | None:
    """Return the first set of files that is whole, below root or $HEAVYTAIL_DATA.

    A set maps each name to a checksum that the file must have, ``algorithm:digest`` or None.
    """
    for place in (root, os.environ.get("HEAVYTAIL_DATA")):
        for files in sets if place else ():
            paths = {Path(place or ".").expanduser() / folder / file: files[file] for file in files}
            if all(path.is_file() for path in paths):
                for path, checksum in paths.items():
                    _assert_checksum(path, checksum)
                return list(paths)
    return None


def _assert_checksum(path: Path, checksum: str | None) -> None:
    if checksum is None:
        return
    algorithm, digest = checksum.split(":")
    found = _pooch().file_hash(path, alg=algorithm)
    if found != digest:
        raise ValueError(f"{path} must have the {algorithm} {digest}, got {found}")


def _downloaded(folder: str, files: Mapping[str, str | None], url: str) -> list[Path]:
    """Return the files in the cache, fetched there if need be from the folder ``url``."""
    cache = Path(_pooch().os_cache("heavytail")) / folder
    try:
        for file, checksum in files.items():
            _pooch().retrieve(url + file, checksum, fname=file, path=cache, progressbar=True)
    except (OSError, ValueError) as failure:  # unreachable, or another checksum
        raise FileNotFoundError(
            f"{folder} is not on this machine and could not be downloaded from {url}: {failure}. "
            f"Put {list(files)} into a folder named {folder!r} and name the folder above it, as "
            "root= or in $HEAVYTAIL_DATA"
        ) from failure
    return [cache / file for file in files]


def _pooch() -> ModuleType:
    """Import pooch, which few calls need, without its progress bar's remark on notebooks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pooch
    module: ModuleType = pooch
    return module


_LOADERS: dict[str, Callable[[Root], Dataset]] = {
    "digits": _digits,
    "ecg5000": _ecg5000,
    "mnist": _mnist,
    "mnist-centred": partial(_mnist, centred=True),
    "cifar10": partial(_cifar, name="cifar10"),
    "cifar10-subset": _cifar10_subset,
    "cifar100": partial(_cifar, name="cifar100"),
}

NAMES = tuple(_LOADERS)  # what :func:`load` knows
