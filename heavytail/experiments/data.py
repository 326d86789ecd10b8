"""Data sets as tensors: digits, ECG5000, MNIST, CIFAR-10 and -100, and classes made up by us.

Digits ship with scikit-learn; the files of the others are found on disk, else downloaded. Classes
that are made up have a best possible error that is known.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from heavytail import _check
from heavytail.experiments import _archives
from heavytail.experiments._archives import Arrays, Bytes, Root


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
    ``"synthetic"``
        ``gaussian_classes(2, 100, bayes_error=0.1, train=1000, test=10_000, seed=230_608_125)``:
        no test error below 0.1 is to be had, but by chance.

    Examples are vectors but for CIFAR. The files of ECG5000, MNIST and CIFAR are looked for in the
    folder ``root/name`` (``mnist`` for both of MNIST), then in that of ``$HEAVYTAIL_DATA``, then in
    the cache folder of the machine, into which they are else downloaded. Whatever their origin,
    they must have the known checksum. CIFAR is read from its *binary* archives,
    ``cifar-10-binary.tar.gz`` and ``cifar-100-binary.tar.gz``.

    Args:
        name: one of the above.
        root: folder that holds the folder ``name``; optional.

    Raises:
        TypeError, ValueError: on another name, or files with another checksum.
        FileNotFoundError: if the files are nowhere and cannot be downloaded; the message says
            which files to put where.
    """
    _check.one_of("name", name, _LOADERS)
    return replace(_LOADERS[name](root), name=name)


def _digits(root: Root) -> Dataset:
    from sklearn.datasets import load_digits  # slow to import, and needed here only

    x, y = load_digits(return_X_y=True)
    test = np.arange(len(x)) % 5 == 4
    mean, deviation = x[~test].mean(), x[~test].std()
    x = (x - mean) / deviation
    return _dataset((x[~test], y[~test], x[test], y[test]), classes=10)


def _ecg5000(root: Root) -> Dataset:
    x_train, y_train, x_test, y_test = _archives.ecg5000(root)
    return _dataset((x_train, y_train != 1, x_test, y_test != 1), classes=2)


def _mnist(root: Root, centred: bool = False) -> Dataset:
    x_train, y_train, x_test, y_test = _archives.mnist(root)

    def prepared(images: Bytes) -> npt.NDArray[np.float32]:
        pixels = _standardised(images.reshape(len(images), -1), 0.1307, 0.3081)
        if centred:
            pixels -= pixels.mean(1, dtype=np.float64, keepdims=True)
        return pixels

    return _dataset((prepared(x_train), y_train, prepared(x_test), y_test), classes=10)


# Mean and standard deviation of each colour, scaled to [0, 1]: those of the paper's code.
_CIFAR10_MOMENTS = (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)
_CIFAR100_MOMENTS = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)

_Colours = tuple[float, float, float]


def _cifar(root: Root, name: str, moments: tuple[_Colours, _Colours], classes: int) -> Dataset:
    x_train, y_train, x_test, y_test = _archives.cifar(name, root)
    mean, deviation = (np.reshape(colours, (3, 1, 1)) for colours in moments)
    train, test = (_standardised(images, mean, deviation) for images in (x_train, x_test))
    return _dataset((train, y_train, test, y_test), classes)


def _standardised(
    images: Bytes, mean: npt.ArrayLike, deviation: npt.ArrayLike
) -> npt.NDArray[np.float32]:
    """Return pixels scaled to [0, 1], less the mean, over the standard deviation."""
    pixels = images.astype(np.float32)
    pixels /= 255  # in place: in float64 the training images of CIFAR would take 1.2 GB
    pixels -= np.asarray(mean, dtype=np.float32)
    pixels /= np.asarray(deviation, dtype=np.float32)
    return pixels


def _dataset(arrays: Arrays, classes: int) -> Dataset:
    x_train, y_train, x_test, y_test = arrays

    def tensor(array: npt.NDArray[np.generic], dtype: type[np.generic]) -> Tensor:
        return torch.from_numpy(np.require(array, dtype, ["C", "W"]))  # a copy where it must be

    return Dataset(
        "",
        tensor(x_train, np.float32),
        tensor(y_train, np.int64),
        tensor(x_test, np.float32),
        tensor(y_test, np.int64),
        classes,
    )


def gaussian_classes(
    classes: int, inputs: int, *, bayes_error: float, train: int, test: int, seed: int
) -> Dataset:
    r"""Draw examples of Gaussian classes whose best possible error is given.

    The label is uniform, and given the label k the example is N(m e_k, I), with e_1, ..., e_K
    orthonormal, a random rotation of K axes. The best rule takes the largest <x, e_k>, and its
    error is that of K independent N(0, 1) the first of which is moved by m,

        1 - int phi(z - m) Phi(z)^{K - 1} dz,

    which is Phi(-m / sqrt(2)) at K = 2; m is solved from it.

    Args:
        classes: number of classes K, >= 2.
        inputs: dimension of an example, >= ``classes``.
        bayes_error: the best possible error, in (0, 1 - 1/K).
        train: number of training examples, >= 1; the test examples do not depend on it.
        test: number of test examples, >= 1.
        seed: in [0, 2^64). A model and its noise must have others: the same seed means the same
            bits.

    Returns:
        The data set ``"gaussian"``, on the CPU; :func:`class_means` tells the m e_k.

    Raises:
        TypeError, ValueError: on an argument outside the sets above.

    Source: ours.
    """
    train, test = _check.count("train", train, 1), _check.count("test", test, 1)
    generator = torch.Generator().manual_seed(_check.seed("seed", seed))
    means = _class_means(classes, inputs, bayes_error, generator).float()

    def draw(n: int) -> tuple[Tensor, Tensor]:
        y = torch.randint(len(means), (n,), generator=generator, device="cpu")
        x = torch.randn((n, means.shape[1]), generator=generator, device="cpu", dtype=torch.float32)
        return x.add_(means[y]), y

    x_test, y_test = draw(test)
    x_train, y_train = draw(train)
    return Dataset("gaussian", x_train, y_train, x_test, y_test, len(means))


def class_means(classes: int, inputs: int, *, bayes_error: float, seed: int) -> Tensor:
    """Return the means m e_k of the classes of :func:`gaussian_classes`.

    The best rule takes the largest <x, m e_k>. Arguments are those of :func:`gaussian_classes`,
    and the same ones mean the same means.

    Returns:
        Shape (classes, inputs), float64; the rows are orthogonal, of length m.

    Raises:
        TypeError, ValueError: as there.
    """
    generator = torch.Generator().manual_seed(_check.seed("seed", seed))
    return _class_means(classes, inputs, bayes_error, generator)


def _class_means(
    classes: int, inputs: int, bayes_error: float, generator: torch.Generator
) -> Tensor:
    classes = _check.count("classes", classes, 2)
    inputs = _check.count("inputs", inputs, classes)
    m = _separation(classes, bayes_error)
    normal = torch.randn((inputs, classes), generator=generator, device="cpu", dtype=torch.float64)
    directions, triangle = torch.linalg.qr(normal)
    signs = triangle.diagonal().sign()  # without them the rotation would not be uniform
    means: Tensor = m * (directions * signs).T
    return means


def _separation(classes: int, bayes_error: float) -> float:
    """Return the m of :func:`gaussian_classes`, to 1e-10."""
    from scipy import integrate, optimize, special  # slow to import

    bayes_error = _check.real("bayes_error", bayes_error)
    if not 0 < bayes_error < 1 - 1 / classes:
        raise ValueError(
            f"bayes_error must be in (0, 1 - 1/{classes}), got {bayes_error:g}: guessing has "
            f"{1 - 1 / classes:g}"
        )

    def error(m: float) -> float:
        def integrand(t: float) -> float:  # t = z - m; log Phi keeps the digits of a small error
            missed = -math.expm1((classes - 1) * float(special.log_ndtr(m + t)))
            return missed * math.exp(-t * t / 2) / math.sqrt(2 * math.pi)

        # Its peak is between -m and 0, and it falls off there as a normal density or faster.
        return float(integrate.quad(integrand, -m - 10, 10, epsabs=0, epsrel=1e-12, limit=200)[0])

    # One of K - 1 others is nearer with probability (K - 1) Phi(-m / sqrt(2)) at most.
    most = -math.sqrt(2) * float(special.ndtri(bayes_error / (classes - 1)))
    return float(
        optimize.brentq(lambda m: math.log(error(m) / bayes_error), 0, most + 1, xtol=1e-12)
    )


def _synthetic(root: Root) -> Dataset:
    # The number of the paper on arXiv: a seed that a model or its noise will hardly have.
    return gaussian_classes(2, 100, bayes_error=0.1, train=1000, test=10_000, seed=230_608_125)


_LOADERS: dict[str, Callable[[Root], Dataset]] = {
    "digits": _digits,
    "ecg5000": _ecg5000,
    "mnist": _mnist,
    "mnist-centred": partial(_mnist, centred=True),
    "cifar10": partial(_cifar, name="cifar10", moments=_CIFAR10_MOMENTS, classes=10),
    "cifar100": partial(_cifar, name="cifar100", moments=_CIFAR100_MOMENTS, classes=100),
    "synthetic": _synthetic,
}

NAMES = tuple(_LOADERS)  # what :func:`load` knows
