import gzip
import hashlib
import io
import math
import os
import struct
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
import torch

from heavytail.experiments import _archives
from heavytail.experiments.data import Dataset, class_means, gaussian_classes, load

REAL = os.environ.get("HEAVYTAIL_DATA", "")


def needs(name):
    there = REAL and os.path.isdir(os.path.join(REAL, name))
    return pytest.mark.skipif(not there, reason=f"$HEAVYTAIL_DATA holds no {name}")


@pytest.fixture(autouse=True)
def _offline(monkeypatch, tmp_path):
    """Let no test reach the network, nor the machine's cache."""

    def refuse(url, *_, **__):
        raise OSError("offline")

    pooch = _archives._pooch()
    monkeypatch.delenv("HEAVYTAIL_DATA", raising=False)
    monkeypatch.setattr(pooch, "retrieve", refuse)
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / "cache")


def test_digits():
    digits = load("digits")
    assert (digits.name, digits.inputs, digits.classes) == ("digits", 64, 10)
    assert digits.x_train.shape == (1438, 64)
    assert digits.x_test.shape == (359, 64)
    assert digits.x_train.dtype == torch.float32
    assert digits.y_train.dtype == torch.int64
    assert float(digits.x_train.mean()) == pytest.approx(0, abs=1e-6)
    assert float(digits.x_train.std()) == pytest.approx(1, abs=1e-4)
    assert set(digits.y_test.tolist()) == set(range(10))
    double = digits.to(dtype=torch.float64)
    assert double.x_test.dtype == torch.float64
    assert double.y_test.dtype == torch.int64


def test_examples_of_any_shape():
    x = torch.arange(2 * 3 * 4 * 5.0).view(2, 3, 4, 5)
    y = torch.tensor([0, 1])
    images = Dataset("images", x, y, x[:1], y[:1], 2)
    assert (images.shape, images.inputs) == ((3, 4, 5), 60)
    assert images.to(dtype=torch.float64).shape == (3, 4, 5)
    flat = images.flat()
    assert (flat.shape, flat.inputs, flat.name, flat.classes) == ((60,), 60, "images", 2)
    assert flat.x_train.tolist() == x.view(2, 60).tolist()
    assert flat.x_test.shape == (1, 60)
    assert flat.x_train.data_ptr() == x.data_ptr()
    assert flat.y_train is y
    assert torch.equal(flat.flat().x_train, flat.x_train)


def archive(folder, rows):
    """Write an ECG5000.zip in the archive's format and return its decoded arrays' digests."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    digests = {}
    with zipfile.ZipFile(folder / "ECG5000.zip", "w") as zipped:
        for part in ("TRAIN", "TEST"):
            x = rng.normal(size=(rows, 140)).round(6)
            y = np.arange(rows) % 5 + 1
            lines = (
                "".join(f"{v:16.7e}" for v in [label, *row])
                for label, row in zip(y, x, strict=True)
            )
            zipped.writestr(f"ECG5000_{part}.txt", "\n".join(lines))
            arrays = {"X": x.astype("<f4"), "y": y.astype("<i8")}
            for letter, array in arrays.items():
                name = f"{letter}_{part.lower()}"
                digests[name] = hashlib.sha256(array.tobytes()).hexdigest()
    return digests


def test_ecg5000_from_the_archive_and_its_two_classes(tmp_path, monkeypatch):
    monkeypatch.setattr(_archives, "_ECG5000_SHA256", archive(tmp_path / "ecg5000", 10))
    ecg = load("ecg5000", tmp_path)
    assert ecg.x_train.shape == (10, 140)
    assert ecg.y_train.tolist() == [0, 1, 1, 1, 1] * 2
    assert ecg.classes == 2


def test_root_comes_before_the_environment_whatever_the_files(tmp_path, monkeypatch):
    monkeypatch.setattr(_archives, "_ECG5000_SHA256", archive(tmp_path / "ecg5000", 10))
    (tmp_path / "other" / "ecg5000").mkdir(parents=True)
    for array in _archives._ECG5000_ARRAYS:
        np.save(tmp_path / "other" / "ecg5000" / f"{array}.npy", np.zeros(3))
    monkeypatch.setenv("HEAVYTAIL_DATA", str(tmp_path / "other"))
    assert len(load("ecg5000", tmp_path).x_train) == 10
    with pytest.raises(ValueError, match="must have 140 columns"):
        load("ecg5000")


def test_a_wrong_archive_is_refused(tmp_path):
    archive(tmp_path / "ecg5000", 10)
    with pytest.raises(ValueError, match=r"X_train of ECG5000 in .* must have the sha256"):
        load("ecg5000", tmp_path)
    assert (tmp_path / "ecg5000" / "ECG5000.zip").exists()  # the user's file is left alone


def test_a_wrong_download_is_not_kept(tmp_path, monkeypatch):
    def retrieve(url, known_hash, fname, path, progressbar):
        archive(path, 10)

    monkeypatch.setattr(_archives._pooch(), "retrieve", retrieve)
    with pytest.raises(ValueError, match="must have the sha256"):
        load("ecg5000")
    assert not (tmp_path / "cache" / "ecg5000" / "ECG5000.zip").exists()


def idx(array):
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return gzip.compress(header + array.tobytes())


@pytest.fixture
def mnist_files(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    digests = {}
    (tmp_path / "files" / "mnist").mkdir(parents=True)
    for name in _archives._MNIST_SHA256:
        size = (6, 28, 28) if "images" in name else (6,)
        packed = idx(rng.integers(0, 10, size=size, dtype=np.uint8))
        digests[name] = hashlib.sha256(packed).hexdigest()
        (tmp_path / "files" / "mnist" / name).write_bytes(packed)
    monkeypatch.setattr(_archives, "_MNIST_SHA256", digests)
    return tmp_path / "files"


def test_mnist_is_found_in_root_then_environment_then_cache(mnist_files, tmp_path, monkeypatch):
    from_root = load("mnist", mnist_files)
    assert from_root.x_train.shape == (6, 784)
    monkeypatch.setenv("HEAVYTAIL_DATA", str(mnist_files))
    assert torch.equal(load("mnist", tmp_path / "empty").x_test, from_root.x_test)
    monkeypatch.delenv("HEAVYTAIL_DATA")
    (mnist_files).rename(tmp_path / "cache")
    assert torch.equal(load("mnist").x_test, from_root.x_test)


def test_mnist_comes_from_the_mirror_when_its_home_refuses(mnist_files, tmp_path, monkeypatch):
    asked = []

    def retrieve(url, known_hash, fname, path, progressbar):
        asked.append(url)
        if "lecun" in url:
            raise OSError("refused")
        assert known_hash == _archives._MNIST_SHA256[fname]
        path.mkdir(parents=True, exist_ok=True)
        (mnist_files / "mnist" / fname).rename(path / fname)

    monkeypatch.setattr(_archives._pooch(), "retrieve", retrieve)
    assert load("mnist").inputs == 784
    assert len(asked) == 8


def test_a_changed_mnist_file_is_refused(mnist_files):
    file = mnist_files / "mnist" / "t10k-labels-idx1-ubyte.gz"
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(ValueError, match=r"t10k-labels-idx1-ubyte\.gz must have the sha256"):
        load("mnist", mnist_files)


def test_centred_mnist_is_mnist_less_the_mean_of_each_image(mnist_files):
    mnist, centred = load("mnist", mnist_files), load("mnist-centred", mnist_files)
    assert (centred.name, centred.classes, centred.inputs) == ("mnist-centred", 10, 784)
    assert centred.x_train.dtype == torch.float32
    for part in ("x_train", "x_test"):
        x, c = getattr(mnist, part), getattr(centred, part)
        assert float(x.sum(1).abs().min()) > 1  # it has something to do
        assert float(c.double().sum(1).abs().max()) < 784 * 2**-24  # rounding of values below 2
        assert torch.allclose(c, x - x.mean(1, keepdim=True), atol=1e-6)
    assert torch.equal(centred.y_train, mnist.y_train)
    weight = torch.randn(9, 784, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(centred.x_test @ (weight + 10).T, centred.x_test @ weight.T, atol=1e-3)


MOMENTS = {
    "cifar10": ((0.491, 0.482, 0.447), (0.247, 0.243, 0.262)),
    "cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
}
PARTS = {  # in another order than theirs, and the archive has other files too
    "cifar10": {f"cifar-10-batches-bin/{part}.bin": part for part in ("test_batch", "readme")}
    | {f"cifar-10-batches-bin/data_batch_{batch}.bin": batch - 1 for batch in (2, 1, 4, 5, 3)},
    "cifar100": {f"cifar-100-binary/{part}.bin": part for part in ("test", "train", "readme")},
}


def pixel(example, colour, row, column):
    """Return a byte that tells the four of them apart."""
    return (101 * example + 67 * colour + 13 * row + 3 * column) % 256


def record(example, labels):
    """Return an example of the archive: labels, then 1024 bytes a colour, row by row."""
    pixels = [pixel(example, c, i, j) for c in range(3) for i in range(32) for j in range(32)]
    return bytes(labels) + bytes(pixels)


@pytest.fixture
def cifar_files(tmp_path, monkeypatch):
    """Write tiny archives: training examples 0 .. 9 in the archive's order, test example 10."""
    for name, archive in _archives._CIFAR.items():
        folder = tmp_path / "files" / name
        folder.mkdir(parents=True)
        with tarfile.open(folder / archive.file, "w:gz") as packed:
            packed.addfile(tarfile.TarInfo("../../data_batch_1.bin.link"))
            for member, part in PARTS[name].items():
                if part == "readme":
                    content = b"no examples"
                elif name == "cifar10":
                    examples = [10] if part == "test_batch" else [2 * part, 2 * part + 1]
                    content = b"".join(record(i, [i % 10]) for i in examples)
                else:
                    examples = [10] if part == "test" else range(10)
                    content = b"".join(record(i, [i % 20, 99 - i]) for i in examples)
                header = tarfile.TarInfo(member)
                header.size = len(content)
                packed.addfile(header, io.BytesIO(content))
        md5 = hashlib.md5((folder / archive.file).read_bytes()).hexdigest()
        monkeypatch.setitem(_archives._CIFAR, name, replace(archive, md5=md5))
    return tmp_path / "files"


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_from_its_binary_archive(name, cifar_files):
    cifar = load(name, cifar_files)
    assert (cifar.name, cifar.shape, cifar.inputs) == (name, (3, 32, 32), 3072)
    assert cifar.x_train.shape == (10, 3, 32, 32)
    assert cifar.x_test.shape == (1, 3, 32, 32)
    assert cifar.x_train.dtype == cifar.x_test.dtype == torch.float32
    assert cifar.y_train.dtype == torch.int64
    if name == "cifar10":
        assert cifar.classes == 10
        assert cifar.y_train.tolist() == list(range(10))
        assert cifar.y_test.tolist() == [0]
    else:  # the fine labels
        assert cifar.classes == 100
        assert cifar.y_train.tolist() == list(range(99, 89, -1))
        assert cifar.y_test.tolist() == [89]
    for example, c, i, j in [
        (0, 0, 0, 1),
        (0, 0, 1, 0),
        (3, 1, 0, 0),
        (7, 2, 31, 30),
        (9, 0, 5, 6),
    ]:
        mean, deviation = (colours[c] for colours in MOMENTS[name])
        value = (pixel(example, c, i, j) / 255 - mean) / deviation
        assert float(cifar.x_train[example, c, i, j]) == pytest.approx(value, rel=1e-5, abs=1e-6)
    value = (pixel(10, 2, 8, 9) / 255 - MOMENTS[name][0][2]) / MOMENTS[name][1][2]
    assert float(cifar.x_test[0, 2, 8, 9]) == pytest.approx(value, rel=1e-5)
    assert float(cifar.flat().x_test[0, 2 * 1024 + 8 * 32 + 9]) == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_a_changed_cifar_archive_is_refused(name, cifar_files):
    file = cifar_files / name / _archives._CIFAR[name].file
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(ValueError, match=r"-binary\.tar\.gz must have the md5"):
        load(name, cifar_files)
    assert file.exists()  # the user's file is left alone


def test_cifar_is_downloaded_and_its_checksum_looked_at(cifar_files, tmp_path, monkeypatch):
    """By pooch itself but for the network: a wrong file is not kept, a right one is found again."""
    pooch = _archives._pooch()
    good = (cifar_files / "cifar10" / "cifar-10-binary.tar.gz").read_bytes()
    asked = []

    def network(content):
        def download(url, file, _):
            asked.append(url)
            Path(file).write_bytes(content)

        monkeypatch.setattr(pooch.core, "choose_downloader", lambda *_, **__: download)

    monkeypatch.setattr(pooch, "retrieve", pooch.core.retrieve)
    network(good + b"x")
    with pytest.raises(FileNotFoundError, match=r"cifar10 is not on .* hash"):
        load("cifar10")
    assert not any(file.is_file() for file in (tmp_path / "cache").rglob("*"))
    network(good)
    assert len(load("cifar10").x_train) == 10
    assert len(load("cifar10").x_train) == 10
    assert asked == ["https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"] * 2


@pytest.mark.parametrize("name", ["ecg5000", "mnist", "cifar10", "cifar100"])
def test_offline_and_absent_says_what_to_do(name, tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"{name} is not on .*HEAVYTAIL_DATA.*offline"):
        load(name, tmp_path)


@pytest.mark.parametrize(("name", "error"), [("cifar", ValueError), (None, TypeError)])
def test_an_unknown_name(name, error):
    with pytest.raises(error, match=r"name must be one of \['cifar10', .*'mnist-centred', 'synth"):
        load(name)


def gaussian(classes, inputs, *, bayes_error, n, seed):
    """Return test examples and the means of their classes."""
    form = {"bayes_error": bayes_error, "seed": seed}
    data = gaussian_classes(classes, inputs, train=1, test=n, **form)
    return data, class_means(classes, inputs, **form).float()


def standard_errors(data, means, bayes_error):
    """Return by how many binomial standard errors a rule's test error is off the Bayes error."""
    n = len(data.x_test)
    wrong = ((data.x_test @ means.T).argmax(1) != data.y_test).double().mean()
    return (float(wrong) - bayes_error) / math.sqrt(bayes_error * (1 - bayes_error) / n)


@pytest.mark.parametrize(("classes", "bayes_error"), [(2, 0.1), (2, 0.4), (5, 0.1), (5, 0.6)])
def test_the_best_rule_has_the_stated_error(classes, bayes_error):
    form = {"bayes_error": bayes_error, "n": 200_000, "seed": 1}
    data, means = gaussian(classes, 10, **form)
    assert abs(standard_errors(data, means, bayes_error)) < 4
    # Negative control: one direction turned by half a right angle, towards an axis of no class.
    other = torch.linalg.svd(means)[2][-1] * means[0].norm()
    turned = torch.cat([((means[0] + other) / math.sqrt(2))[None], means[1:]])
    assert standard_errors(data, turned, bayes_error) > 8


@pytest.mark.parametrize("bayes_error", [1e-12, 1e-3, 0.1, 0.3, 0.499])
def test_two_classes_have_a_closed_form(bayes_error):
    """Phi(-m / sqrt(2)) is the best error of two."""
    means = class_means(2, 7, bayes_error=bayes_error, seed=0)
    m = -math.sqrt(2) * NormalDist().inv_cdf(bayes_error)
    lengths = torch.linalg.vector_norm(means, dim=1)
    assert lengths.tolist() == pytest.approx([m, m], abs=1e-10)


def test_class_means_are_a_random_rotation_of_axes():
    draws = [class_means(3, 4, bayes_error=0.2, seed=seed) for seed in range(500)]
    m = float(draws[0][0].norm())
    for means in draws[:10]:
        assert means.dtype == torch.float64
        assert torch.allclose(means @ means.T, m**2 * torch.eye(3, dtype=torch.float64))
    # Each coordinate of a uniform direction in R^4 has mean 0 and mean square 1/4, sd 0.25 at most.
    coordinates = torch.stack(draws).flatten(1) / m
    assert float(coordinates.mean(0).abs().max()) < 5 * 0.5 / math.sqrt(500)
    assert float((coordinates.square().mean(0) - 0.25).abs().max()) < 5 * 0.25 / math.sqrt(500)


def test_gaussian_classes_are_those_of_the_law():
    data, means = gaussian(3, 6, bayes_error=0.2, n=100_000, seed=2)
    assert (data.name, data.classes, data.inputs) == ("gaussian", 3, 6)
    assert data.x_test.dtype == torch.float32
    assert data.y_test.dtype == torch.int64
    counts = data.y_test.bincount()
    assert counts.tolist() == pytest.approx([1e5 / 3] * 3, abs=5 * math.sqrt(1e5 * 2 / 9))
    noise = data.x_test - means[data.y_test]
    assert float(noise.mean(0).abs().max()) < 5 / math.sqrt(1e5)
    covariance = noise.T @ noise / len(noise)
    assert float((covariance - torch.eye(6)).abs().max()) < 5 * math.sqrt(2 / 1e5)


def test_the_seed_is_all_that_gaussian_classes_depend_on():
    form = {"bayes_error": 0.2, "test": 50}
    state = torch.get_rng_state()
    data, again = (gaussian_classes(3, 6, **form, train=20, seed=1) for _ in range(2))
    more = gaussian_classes(3, 6, **form, train=30, seed=1)
    other = gaussian_classes(3, 6, **form, train=20, seed=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(data.x_train, again.x_train)
    assert torch.equal(data.y_train, again.y_train)
    assert torch.equal(data.x_test, more.x_test)  # the test does not depend on the training set
    assert not torch.equal(data.x_train[:20], data.x_test[:20])
    assert not torch.equal(data.x_test, other.x_test)


def test_the_synthetic_set():
    synthetic = load("synthetic")
    assert (synthetic.name, synthetic.classes, synthetic.inputs) == ("synthetic", 2, 100)
    assert (len(synthetic.x_train), len(synthetic.x_test)) == (1000, 10_000)
    means = class_means(2, 100, bayes_error=0.1, seed=230_608_125).float()
    assert abs(standard_errors(synthetic, means, 0.1)) < 4
    assert torch.equal(load("synthetic").x_train, synthetic.x_train)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"classes": 1}, ValueError, "classes must be >= 2, got 1"),
        ({"classes": 2.0}, TypeError, "classes must be an integer"),
        ({"inputs": 2}, ValueError, "inputs must be >= 3, got 2"),
        ({"bayes_error": 0}, ValueError, r"bayes_error must be in \(0, 1 - 1/3\), got 0"),
        ({"bayes_error": 0.7}, ValueError, r"bayes_error must be in .*, got 0\.7: guessing"),
        ({"bayes_error": math.nan}, ValueError, "bayes_error must be finite"),
        ({"bayes_error": "0.1"}, TypeError, "bayes_error must be a real number"),
        ({"train": 0}, ValueError, "train must be >= 1, got 0"),
        ({"test": 0}, ValueError, "test must be >= 1, got 0"),
        ({"seed": -1}, ValueError, "seed must be >= 0, got -1"),
    ],
)
def test_bad_arguments_of_gaussian_classes(change, error, message):
    form = {"classes": 3, "inputs": 5, "bayes_error": 0.2, "train": 4, "test": 4, "seed": 0}
    with pytest.raises(error, match=message):
        gaussian_classes(**form | change)


@needs("ecg5000")
def test_the_real_ecg5000():
    ecg = load("ecg5000", REAL)
    assert (len(ecg.x_train), len(ecg.x_test), ecg.inputs) == (500, 4500, 140)
    assert int((ecg.y_train == 0).sum()) == 292
    assert int((ecg.y_test == 0).sum()) == 2627
    assert float(ecg.x_train.sum(1).abs().max()) < 1e-4  # every series is z-normalised


@needs("mnist")
def test_the_real_mnist():
    mnist = load("mnist", REAL)
    assert (len(mnist.x_train), len(mnist.x_test), mnist.inputs) == (60_000, 10_000, 784)
    assert float(mnist.x_train.mean()) == pytest.approx(0, abs=1e-3)
    assert float(mnist.x_train.std()) == pytest.approx(1, abs=1e-3)
    assert mnist.y_train[:5].tolist() == [5, 0, 4, 1, 9]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=needs(name)) for name in ("cifar10", "cifar100")]
)
def test_the_real_cifar(name):
    cifar = load(name, REAL)
    assert (len(cifar.x_train), len(cifar.x_test), cifar.shape) == (50_000, 10_000, (3, 32, 32))
    assert cifar.y_train.bincount().tolist() == [50_000 // cifar.classes] * cifar.classes
    assert cifar.y_test.bincount().tolist() == [10_000 // cifar.classes] * cifar.classes
    assert cifar.x_train.mean((0, 2, 3)).tolist() == pytest.approx([0] * 3, abs=5e-3)
    assert cifar.x_train.std((0, 2, 3)).tolist() == pytest.approx([1] * 3, abs=5e-3)
