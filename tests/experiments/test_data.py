import gzip
import hashlib
import os
import struct
import zipfile

import numpy as np
import pytest
import torch

from heavytail.experiments import data
from heavytail.experiments.data import load

REAL = os.environ.get("HEAVYTAIL_DATA", "")


def needs(name):
    there = REAL and os.path.isdir(os.path.join(REAL, name))
    return pytest.mark.skipif(not there, reason=f"$HEAVYTAIL_DATA holds no {name}")


@pytest.fixture(autouse=True)
def _offline(monkeypatch, tmp_path):
    """Let no test reach the network, nor the machine's cache."""

    def refuse(url, *_, **__):
        raise OSError("offline")

    pooch = data._pooch()
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
    monkeypatch.setattr(data, "_ECG5000_SHA256", archive(tmp_path / "ecg5000", 10))
    ecg = load("ecg5000", tmp_path)
    assert ecg.x_train.shape == (10, 140)
    assert ecg.y_train.tolist() == [0, 1, 1, 1, 1] * 2
    assert ecg.classes == 2


def test_root_comes_before_the_environment_whatever_the_files(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "_ECG5000_SHA256", archive(tmp_path / "ecg5000", 10))
    (tmp_path / "other" / "ecg5000").mkdir(parents=True)
    for array in data._ECG5000_ARRAYS:
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

    monkeypatch.setattr(data._pooch(), "retrieve", retrieve)
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
    for name in data._MNIST_SHA256:
        size = (6, 28, 28) if "images" in name else (6,)
        packed = idx(rng.integers(0, 10, size=size, dtype=np.uint8))
        digests[name] = hashlib.sha256(packed).hexdigest()
        (tmp_path / "files" / "mnist" / name).write_bytes(packed)
    monkeypatch.setattr(data, "_MNIST_SHA256", digests)
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
        assert known_hash == data._MNIST_SHA256[fname]
        path.mkdir(parents=True, exist_ok=True)
        (mnist_files / "mnist" / fname).rename(path / fname)

    monkeypatch.setattr(data._pooch(), "retrieve", retrieve)
    assert load("mnist").inputs == 784
    assert len(asked) == 8


def test_a_changed_mnist_file_is_refused(mnist_files):
    file = mnist_files / "mnist" / "t10k-labels-idx1-ubyte.gz"
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(ValueError, match=r"t10k-labels-idx1-ubyte\.gz must have the sha256"):
        load("mnist", mnist_files)


@pytest.mark.parametrize("name", ["ecg5000", "mnist"])
def test_offline_and_absent_says_what_to_do(name, tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"{name} is not on .*HEAVYTAIL_DATA.*offline"):
        load(name, tmp_path)


@pytest.mark.parametrize(("name", "error"), [("cifar", ValueError), (None, TypeError)])
def test_an_unknown_name(name, error):
    with pytest.raises(error, match=r"name must be one of \['digits', 'ecg5000', 'mnist'\]"):
        load(name)


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
