"""Data sets as tensors: digits, ECG5000, MNIST, CIFAR-10 and CIFAR-100.

Digits ship with scikit-learn. The files of the others are found on disk, else downloaded; what is
used has the known checksum, and nothing in a file is run as code. A value outside its set, or a
file with other content, is a TypeError or ValueError.
"""

import gzip
import hashlib
import os
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from heavytail import _check

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its progress bar's remark on notebooks
    import pooch

Root = str | os.PathLike[str] | None
_Array = npt.NDArray[Any]
_Loaded = tuple[_Array, _Array, _Array, _Array, int]  # as the fields of Dataset

# Checksums: sha256 but for CIFAR's, which are as its page publishes them.
_ECG5000 = "03dd7eadddfc3ccaf6b8758d8465c3475434c628e37f2b9df1641ee1edc71533"  # of the arrays
_MNIST = {
    "train-images-idx3": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
_SUBSET = "fbe432dfc2c01d9dd16d375ae5a824a1b9752d0f2698a982445e8fdca206a23a"
_CIFAR = {10: "c32a1d4ab5d03f1284b67883e8d13530", 100: "03b5dce01913d631647c71ecec9e9cb8"}  # md5
# Mean and deviation of each colour, scaled to [0, 1]: as in the paper's code.
_COLOURS = {
    10: ((0.491, 0.482, 0.447), (0.247, 0.243, 0.262)),
    100: ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
}


@dataclass(frozen=True)
class Dataset:
    """A classification task: training examples, one or more, and test examples."""

    name: str  #: as given to :func:`load`
    x_train: Tensor  #: shape (N, d) or, of images, (N, colours, height, width); finite
    y_train: Tensor  #: shape (N,), int64, labels 0 .. classes - 1
    x_test: Tensor  #: as x_train
    y_test: Tensor  #: as y_train
    classes: int

    def __post_init__(self) -> None:
        _check.instance("name", self.name, str)
        classes = _check.count("classes", self.classes, 1)
        n, m = check_examples("x_train", self.x_train), check_examples("x_test", self.x_test, 0)
        check_labels("y_train", self.y_train, n, classes)
        check_labels("y_test", self.y_test, m, classes)
        for name, x in (("x_train", self.x_train), ("x_test", self.x_test)):
            if not x.sum().isfinite():  # else all terms are
                _check.numbers(name, x)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an example."""
        return tuple(self.x_train.shape[1:])

    @property
    def inputs(self) -> int:
        """Number d of coordinates of an example, whatever its shape."""
        return self.x_train.shape[1:].numel()

    def flat(self) -> "Dataset":
        """Return the data with the examples as vectors, shape (N, d), in the same memory.

        The vector of an image has its colours one after the other, each row by row.
        """
        return replace(self, x_train=self.x_train.flatten(1), x_test=self.x_test.flatten(1))

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> "Dataset":
        """Return the data on another device, the examples in another floating-point type."""
        x_train, x_test = (x.to(device, dtype) for x in (self.x_train, self.x_test))
        y_train, y_test = (y.to(device) for y in (self.y_train, self.y_test))
        return Dataset(self.name, x_train, y_train, x_test, y_test, self.classes)


def check_examples(name: str, x: object, least: int = 1) -> int:
    """Return the number of examples, so many at least."""
    shape = _check.tensor(name, x).shape
    if len(shape) == 0 or shape[0] < least:
        raise ValueError(f"{name} must hold >= {least} examples, got shape {tuple(shape)}")
    return shape[0]


def check_labels(name: str, y: object, n: int, classes: int) -> None:
    """Refuse what is not a label of so many classes for each of n examples."""
    allowed = f"{name} must be {n} int64 in [0, {classes})"
    if not isinstance(y, Tensor) or y.dtype != torch.int64 or y.is_meta:
        raise TypeError(f"{allowed}, got {y!r:.60}")
    wrong = y[(y < 0) | (y >= classes)].tolist()
    if y.shape != (n,) or wrong:
        raise ValueError(f"{allowed}, got shape {tuple(y.shape)}, {wrong[:9]}")


def load(name: str, root: Root = None) -> Dataset:
    """Load a data set.

    - ``"digits"``: images of 8 x 8 pixels, 10 classes, 1438 for training and 359, every fifth, for
      testing; less the mean and over the standard deviation of all training pixels (E. Alpaydin,
      C. Kaynak).
    - ``"ecg5000"``: heartbeats of 140 samples, 500 and 4500, each z-normalised by the archive; its
      class 1 (normal) is 0, its classes 2 to 5 are 1 (UCR Time Series Classification Archive, Dau
      et al. 2019).
    - ``"mnist"``: images of 28 x 28 pixels, 10 classes, 60,000 and 10,000, scaled to [0, 1] and
      then (x - 0.1307) / 0.3081 (LeCun et al. 1998).
    - ``"mnist-centred"``: the same less the mean of each image. Noise of type I, a multiple of
      (1, ..., 1) on each column of the first layer, then changes nothing that a network computes.
    - ``"cifar10"``, ``"cifar100"``: colour images, shape (3, 32, 32), 50,000 and 10,000, scaled to
      [0, 1] and then, each colour, less its mean and over its deviation (Krizhevsky 2009).
    - ``"cifar10-subset"``: the first 7,000 and 1,000 images of CIFAR-10, prepared in the same way:
      accuracies on it are not comparable with those on the whole.

    Examples are vectors but for CIFAR. Files are looked for below the folder ``root``, then below
    ``$HEAVYTAIL_DATA``, then in the machine's cache, into which they are else downloaded:
    ``ecg5000/ECG5000.zip`` (or ``X_train.npy``, ``y_train.npy``, ``X_test.npy``, ``y_test.npy``),
    the four ``.gz`` files of ``mnist``, ``cifar10/cifar-10-binary.tar.gz``,
    ``cifar100/cifar-100-binary.tar.gz``. The subset is cut from CIFAR-10, unless it lies in
    ``cifar10_subset/cifar10_train7000_test1000.npz``.

    Raises:
        FileNotFoundError: if files are nowhere and cannot be downloaded; says what to put where.
    """
    _check.instance("root", root, str | os.PathLike | None)
    *arrays, classes = _LOADERS[_check.one_of("name", name, _LOADERS)](root)
    x_train, y_train, x_test, y_test = (
        torch.from_numpy(np.require(array, dtype, ["C", "W"]))  # a copy where it must be
        for array, dtype in zip(arrays, [np.float32, np.int64] * 2, strict=True)
    )
    return Dataset(name, x_train, y_train, x_test, y_test, classes)


def _standardised(images: _Array, mean: _Array | float, deviation: _Array | float) -> _Array:
    """Return bytes scaled to [0, 1], less the mean, over the deviation, all in float32."""
    pixels = images.astype(np.float32) / 255
    pixels -= mean  # in place: CIFAR's training images are 0.6 GB
    pixels /= deviation
    return pixels


def _digits(root: Root) -> _Loaded:
    from sklearn.datasets import load_digits  # slow to import, and needed here only

    x, y = load_digits(return_X_y=True)
    test = np.arange(len(x)) % 5 == 4
    x = (x - x[~test].mean()) / x[~test].std()
    return x[~test], y[~test], x[test], y[test], 10


def _ecg5000(root: Root) -> _Loaded:
    npy = dict.fromkeys(["X_train.npy", "y_train.npy", "X_test.npy", "y_test.npy"])
    url = "https://www.timeseriesclassification.com/aeon-toolkit/"
    paths = _files("ecg5000", root, npy) or _files("ecg5000", root, {"ECG5000.zip": None}, url)
    try:
        found = _heartbeats(*paths) if len(paths) == 1 else [np.load(path) for path in paths]
        x_train, y_train, x_test, y_test = arrays = [
            array.astype(dtype, casting="same_kind")
            for array, dtype in zip(found, ["<f4", "<i8"] * 2, strict=True)
        ]
        every = b"".join(repr(array.shape).encode() + array.tobytes() for array in arrays)
        if (digest := hashlib.sha256(every).hexdigest()) != _ECG5000:
            raise ValueError(f"the arrays must have the sha256 {_ECG5000}, got {digest}")
    except Exception as failure:  # what a damaged file raises depends on where it is damaged
        if paths[0].is_relative_to(pooch.os_cache("heavytail")):
            paths[0].unlink()  # the next call downloads it again
        names = ", ".join(map(str, paths))
        raise ValueError(f"{names} must be ECG5000 as the archive has it: {failure!r}") from failure
    return x_train, y_train != 1, x_test, y_test != 1, 2


def _heartbeats(path: Path) -> list[_Array]:
    """Read the archive's text: a row an example, its label first."""
    with zipfile.ZipFile(path) as archive:
        tables = [np.loadtxt(archive.open(f"ECG5000_{part}.txt")) for part in ("TRAIN", "TEST")]
    return [part for table in tables for part in (table[:, 1:], table[:, 0].astype(np.int64))]


def _mnist(root: Root, centred: bool = False) -> _Loaded:
    files = {f"{part}-ubyte.gz": f"sha256:{digest}" for part, digest in _MNIST.items()}
    mirror = "https://ossci-datasets.s3.amazonaws.com/mnist/"  # the home often refuses
    x_train, y_train, x_test, y_test = (
        np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header)
        for path, header in zip(_files("mnist", root, files, mirror), [16, 8] * 2, strict=True)
    )
    x_train, x_test = (_standardised(x.reshape(-1, 784), 0.1307, 0.3081) for x in (x_train, x_test))
    if centred:
        for x in (x_train, x_test):
            x -= x.mean(1, dtype=np.float64, keepdims=True)
    return x_train, y_train, x_test, y_test, 10


def _cifar(root: Root, classes: int, subset: bool = False) -> _Loaded:
    own = {"cifar10_train7000_test1000.npz": f"sha256:{_SUBSET}"}
    if subset and (paths := _files("cifar10_subset", root, own)):
        with np.load(paths[0]) as arrays:
            x_train, y_train, x_test, y_test = arrays.values()
        x_train, x_test = (x.transpose(0, 3, 1, 2) for x in (x_train, x_test))
    else:
        whole = {f"cifar-{classes}-binary.tar.gz": f"md5:{_CIFAR[classes]}"}
        paths = _files(f"cifar{classes}", root, whole, "https://www.cs.toronto.edu/~kriz/")
        x_train, y_train, x_test, y_test = _images(paths[0], 1 if classes == 10 else 2)
    if subset:
        x_train, y_train = x_train[:7000], y_train[:7000]
        x_test, y_test = x_test[:1000], y_test[:1000]
    mean, deviation = np.array(_COLOURS[classes], np.float32).reshape(2, 3, 1, 1)
    x_train, x_test = (_standardised(x, mean, deviation) for x in (x_train, x_test))
    return x_train, y_train, x_test, y_test, classes


def _images(path: Path, labels: int) -> Iterator[_Array]:
    """Read CIFAR's archive where it is, in one pass: nothing is unpacked to disk.

    So many labels stand before an image, a byte each; the last is the one that is meant.
    """
    with tarfile.open(path, "r:gz") as members:
        parts = {
            member.name: np.frombuffer(content.read(), np.uint8).reshape(-1, labels + 3 * 32 * 32)
            for member in members
            if member.name.endswith(".bin") and (content := members.extractfile(member))
        }
    for test in (False, True):
        names = sorted(name for name in parts if ("/test" in name) == test)
        examples = np.concatenate([parts.pop(name) for name in names])
        yield examples[:, labels:].reshape(-1, 3, 32, 32)
        yield examples[:, labels - 1]


def _files(
    folder: str, root: Root, files: Mapping[str, str | None], url: str | None = None
) -> list[Path]:
    """Return the files with these checksums, on disk or from ``url``; [] if there are neither."""
    for place in (root, os.environ.get("HEAVYTAIL_DATA")):
        paths = [Path(place or "", folder, file).expanduser() for file in files]
        if not place or not all(path.is_file() for path in paths):
            continue
        for path, checksum in zip(paths, files.values(), strict=True):
            algorithm, _, digest = (checksum or "").partition(":")
            if digest and (found := pooch.file_hash(path, algorithm)) != digest:
                raise ValueError(f"{path} must have the {algorithm} {digest}, got {found}")
        return paths
    if url is None:
        return []
    cache = Path(pooch.os_cache("heavytail"), folder)
    try:
        return [
            Path(pooch.retrieve(url + file, checksum, file, cache, progressbar=True))
            for file, checksum in files.items()
        ]
    except (OSError, ValueError) as failure:  # unreachable, or another checksum
        raise FileNotFoundError(
            f"{folder} is not on this machine and could not be downloaded from {url}: {failure}. "
            f"Put {list(files)} into a folder named {folder!r} and name the folder above it, as "
            "root= or in $HEAVYTAIL_DATA"
        ) from failure


_LOADERS: dict[str, Callable[[Root], _Loaded]] = {
    "digits": _digits,
    "ecg5000": _ecg5000,
    "mnist": _mnist,
    "mnist-centred": partial(_mnist, centred=True),
    "cifar10": partial(_cifar, classes=10),
    "cifar10-subset": partial(_cifar, classes=10, subset=True),
    "cifar100": partial(_cifar, classes=100),
}

NAMES = tuple(_LOADERS)  # what :func:`load` knows
