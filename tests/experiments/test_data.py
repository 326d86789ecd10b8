import gzip
import hashlib
import io
import os
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pooch
import pytest
import torch
from sklearn.datasets import load_digits

from heavytail.experiments import data as module
from heavytail.experiments.data import Dataset, load

REAL = os.environ.get("HEAVYTAIL_DATA", "nowhere")


@pytest.fixture(autouse=True)
def network(monkeypatch, tmp_path):
    """Let no test reach the network, nor the machine's cache; what it asks for is in the list."""
    asked, content = [], {}

    def download(url, file, _):
        asked.append(url)
        if url not in content:
            raise OSError("offline")
        Path(file).write_bytes(content[url])

    monkeypatch.delenv("HEAVYTAIL_DATA", raising=False)
    monkeypatch.setattr(pooch.core, "choose_downloader", lambda *_, **__: download)
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / "cache")
    return asked, content


def test_digits_need_no_network(network):
    digits = load("digits")
    assert not network[0]
    assert (digits.name, digits.inputs, digits.classes) == ("digits", 64, 10)
    assert (len(digits.x_train), len(digits.x_test)) == (1438, 359)
    assert (digits.x_train.dtype, digits.y_train.dtype) == (torch.float32, torch.int64)
    assert float(digits.x_train.mean()) == pytest.approx(0, abs=1e-6)
    assert float(digits.x_train.std(correction=0)) == pytest.approx(1, abs=1e-6)
    assert digits.y_test.tolist() == load_digits().target[4::5].tolist()
    assert digits.y_train.tolist()[:5] == [0, 1, 2, 3, 5]


def test_examples_of_any_shape():
    x, y = torch.arange(2 * 3 * 4 * 5.0).view(2, 3, 4, 5), torch.tensor([0, 1])
    images = Dataset("images", x, y, x[:1], y[:1], 2)
    assert (images.shape, images.inputs) == ((3, 4, 5), 60)
    double = images.to(dtype=torch.float64)
    assert (double.x_test.dtype, double.y_test.dtype) == (torch.float64, torch.int64)
    flat = images.flat()
    assert flat.shape == (60,)
    assert flat.x_train.tolist() == x.view(2, 60).tolist()
    assert flat.x_train.data_ptr() == x.data_ptr()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"x_train": torch.tensor([[0.0, torch.nan]] * 2)},
            r"x_train must be in \(-inf, inf\), got nan",
        ),
        ({"x_test": torch.full((2, 2), torch.inf)}, r"x_test must be in \(-inf, inf\), got inf"),
        ({"x_train": torch.zeros(2, 2, dtype=torch.uint8)}, "x_train must be .*, got dtype"),
        ({"x_train": torch.zeros(0, 2)}, r"x_train must hold >= 1 examples, got shape \(0, 2\)"),
        ({"y_train": torch.tensor([0, -100])}, r"y_train must be 2 int64 in \[0, 2\), .*-100"),
        ({"y_test": torch.tensor([0, 2])}, r"y_test must be 2 int64 in \[0, 2\), got .*\[2\]"),
        ({"y_test": torch.tensor([0.0, 1.0])}, r"y_test must be 2 int64 .*, got tensor\("),
        ({"y_train": torch.tensor([0])}, r"y_train must be 2 int64 .* shape \(1,\)"),
        ({"classes": 0}, "classes must be >= 1, got 0"),
    ],
)
def test_a_data_set_refuses_what_would_train_on_nothing(change, message):
    x, y = torch.zeros(2, 2), torch.tensor([0, 1])
    whole = {"name": "", "x_train": x, "y_train": y, "x_test": x, "y_test": y, "classes": 2}
    Dataset(**whole)
    Dataset(**whole | {"x_train": torch.full((2, 2), 3e38)})  # though their sum is infinite
    with pytest.raises((TypeError, ValueError), match=message):
        Dataset(**whole | change)


# ECG5000: the archive's text, or arrays.


@pytest.fixture
def heartbeats(tmp_path, monkeypatch):
    """Return the four arrays by name, and an ECG5000.zip of them in the archive's format."""
    rng, arrays, packed = np.random.default_rng(0), {}, io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for part in ("train", "test"):
            x, y = rng.normal(size=(10, 140)).round(6), np.arange(10) % 5 + 1
            arrays[f"X_{part}"], arrays[f"y_{part}"] = x.astype("<f4"), y.astype("<i8")
            rows = np.column_stack([y, x])
            text = "\n".join("".join(f"{value:16.7e}" for value in row) for row in rows)
            archive.writestr(f"ECG5000_{part.upper()}.txt", text)
    every = b"".join(repr(array.shape).encode() + array.tobytes() for array in arrays.values())
    monkeypatch.setattr(module, "_ECG5000", hashlib.sha256(every).hexdigest())
    (tmp_path / "ecg5000").mkdir()
    return arrays, packed.getvalue()


@pytest.mark.parametrize("form", ["zip", "npy"])
def test_ecg5000_has_two_classes(form, heartbeats, tmp_path):
    arrays, packed = heartbeats
    if form == "zip":
        (tmp_path / "ecg5000" / "ECG5000.zip").write_bytes(packed)
    else:
        for name, array in arrays.items():
            np.save(tmp_path / "ecg5000" / f"{name}.npy", array)
    ecg = load("ecg5000", tmp_path)
    assert ecg.x_train.tolist() == arrays["X_train"].tolist()
    assert ecg.x_test.tolist() == arrays["X_test"].tolist()
    assert ecg.y_train.tolist() == [0, 1, 1, 1, 1] * 2
    assert ecg.classes == 2


@pytest.mark.parametrize(
    "change",
    [
        {"y_train": lambda y: y + 0.4},  # the same as integers
        {"X_train": lambda x: x + 1j},
        {"X_test": lambda x: x + np.float32(1e-6)},
        {"X_train": lambda x: x.reshape(10, 70, 2)},  # the same bytes
        {"y_test": lambda y: y[:-1]},
        {"X_test": lambda x: x.astype(object)},  # a pickle
    ],
)
def test_other_heartbeats_are_refused(change, heartbeats, tmp_path):
    arrays, _ = heartbeats
    for name, array in (arrays | {name: f(arrays[name]) for name, f in change.items()}).items():
        np.save(tmp_path / "ecg5000" / f"{name}.npy", array)
    with pytest.raises(ValueError, match=r"X_train\.npy.* must be ECG5000 as the archive has it"):
        load("ecg5000", tmp_path)


def test_a_wrong_zip_is_named_and_not_kept_in_the_cache(heartbeats, tmp_path, network):
    good, foreign = heartbeats[1], io.BytesIO()
    with zipfile.ZipFile(foreign, "w") as archive:
        archive.writestr("ECG5000_TRAIN.ts", "@data")
    url = "https://www.timeseriesclassification.com/aeon-toolkit/ECG5000.zip"
    mine = tmp_path / "ecg5000" / "ECG5000.zip"
    for content, why in (
        (b"no zip", "File is not a zip file"),
        (good[: len(good) // 2], "File is not a zip file"),
        (good[:200] + b"xxxx" + good[204:], ""),  # the archive's directory is whole
        (foreign.getvalue(), "no item named 'ECG5000_TRAIN.txt'"),
    ):
        network[1][url] = content
        with pytest.raises(ValueError, match=rf"cache/ecg5000/ECG5000\.zip must be ECG5000.*{why}"):
            load("ecg5000")
        mine.write_bytes(content)
        with pytest.raises(ValueError, match=rf"/ecg5000/ECG5000\.zip must be ECG5000.*{why}"):
            load("ecg5000", tmp_path)
        assert mine.read_bytes() == content  # one's own file is left alone
    network[1][url] = good
    assert len(load("ecg5000").x_train) == 10


# MNIST.


@pytest.fixture
def mnist_files(tmp_path, monkeypatch):
    rng, folder = np.random.default_rng(0), tmp_path / "files" / "mnist"
    folder.mkdir(parents=True)
    for name in module._MNIST:
        array = rng.integers(0, 10, (6, 28, 28) if "images" in name else 6, dtype=np.uint8)
        header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
        packed = gzip.compress(header + array.tobytes())
        monkeypatch.setitem(module._MNIST, name, hashlib.sha256(packed).hexdigest())
        (folder / f"{name}-ubyte.gz").write_bytes(packed)
    return tmp_path / "files"


def test_files_are_found_in_root_then_environment_then_cache(mnist_files, tmp_path, monkeypatch):
    from_root = load("mnist", mnist_files)
    assert from_root.x_train.shape == (6, 784)
    broken = tmp_path / "broken" / "mnist"
    broken.mkdir(parents=True)
    for name in module._MNIST:
        (broken / f"{name}-ubyte.gz").write_bytes(b"x")
    monkeypatch.setenv("HEAVYTAIL_DATA", str(tmp_path / "broken"))
    assert torch.equal(load("mnist", mnist_files).x_test, from_root.x_test)
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte\.gz must have the sha256"):
        load("mnist", tmp_path / "empty")
    monkeypatch.delenv("HEAVYTAIL_DATA")
    mnist_files.rename(tmp_path / "cache")
    assert torch.equal(load("mnist").x_test, from_root.x_test)


def test_centred_mnist_is_mnist_less_the_mean_of_each_image(mnist_files):
    mnist, centred = load("mnist", mnist_files), load("mnist-centred", mnist_files)
    assert (centred.name, centred.x_train.dtype) == ("mnist-centred", torch.float32)
    raw = gzip.decompress((mnist_files / "mnist" / "train-images-idx3-ubyte.gz").read_bytes())
    expected = (torch.tensor(list(raw[16:])).view(6, 784) / 255 - 0.1307) / 0.3081
    assert torch.allclose(mnist.x_train, expected, atol=1e-6)
    for x, c in ((mnist.x_train, centred.x_train), (mnist.x_test, centred.x_test)):
        assert float(x.sum(1).abs().min()) > 1  # it has something to do
        assert float(c.double().sum(1).abs().max()) < 784 * 2**-24  # rounding of values below 2
        assert torch.allclose(c, x - x.mean(1, keepdim=True), atol=1e-6)


# CIFAR.

PARTS = {  # in another order than theirs, and the archive has other files too
    10: {"test_batch": [10], "readme": []}
    | {f"data_batch_{batch}": [2 * batch - 2, 2 * batch - 1] for batch in (2, 1, 4, 5, 3)},
    100: {"test": [10], "train": range(10), "readme": []},
}


def pixels(i):
    """Return the bytes of image i, shape (3, 32, 32): they tell colour, row and column apart."""
    colour, row, column = np.indices((3, 32, 32))
    return ((101 * i + 67 * colour + 13 * row + 3 * column) % 256).astype(np.uint8)


@pytest.fixture
def cifar_files(tmp_path, monkeypatch):
    """Write tiny archives: training examples 0 .. 9 in the archive's order, test example 10."""
    for classes, parts in PARTS.items():
        path = tmp_path / "files" / f"cifar{classes}" / f"cifar-{classes}-binary.tar.gz"
        path.parent.mkdir(parents=True)
        with tarfile.open(path, "w:gz") as packed:
            for part, examples in parts.items():
                header = tarfile.TarInfo(f"some-folder/{part}{'.bin' if examples else '.txt'}")
                labels = [[i % 10] if classes == 10 else [i % 20, 99 - i] for i in examples]
                content = b"".join(
                    bytes(label) + pixels(i).tobytes()
                    for label, i in zip(labels, examples, strict=True)
                )
                header.size = len(content)
                packed.addfile(header, io.BytesIO(content))
        checksum = hashlib.md5(path.read_bytes()).hexdigest()
        monkeypatch.setitem(module._CIFAR, classes, checksum)
    return tmp_path / "files"


@pytest.mark.parametrize(
    ("name", "labels", "mean", "deviation"),
    [
        ("cifar10", [*range(10), 0], (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)),
        ("cifar10-subset", [*range(10), 0], (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)),
        ("cifar100", range(99, 88, -1), (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    ],
)
def test_cifar_from_its_binary_archive(name, labels, mean, deviation, cifar_files):
    cifar = load(name, cifar_files)
    assert (cifar.name, cifar.shape, cifar.x_train.dtype) == (name, (3, 32, 32), torch.float32)
    assert [*cifar.y_train.tolist(), *cifar.y_test.tolist()] == list(labels)  # the fine ones
    for i, image in enumerate([*cifar.x_train, *cifar.x_test]):
        mu, sigma = torch.tensor([mean, deviation]).view(2, 3, 1, 1)
        assert torch.allclose(image, (torch.from_numpy(pixels(i)) / 255 - mu) / sigma, atol=1e-6)


def test_the_subset_is_read_from_its_own_file_where_that_is(cifar_files, monkeypatch):
    whole = load("cifar10", cifar_files)
    images = np.stack([pixels(i) for i in range(11)]).transpose(0, 2, 3, 1)  # colours last
    labels = np.arange(11) % 10
    path = cifar_files / "cifar10_subset" / "cifar10_train7000_test1000.npz"
    path.parent.mkdir()
    parts = {"X_train": images[:10], "y_train": labels[:10]}
    np.savez(path, **parts, X_test=images[10:], y_test=labels[10:])
    with pytest.raises(ValueError, match=r"test1000\.npz must have the sha256"):
        load("cifar10-subset", cifar_files)
    monkeypatch.setattr(module, "_SUBSET", hashlib.sha256(path.read_bytes()).hexdigest())
    (cifar_files / "cifar10" / "cifar-10-binary.tar.gz").unlink()
    subset = load("cifar10-subset", cifar_files)
    assert torch.equal(subset.x_train, whole.x_train)
    assert torch.equal(subset.x_test, whole.x_test)
    assert torch.equal(subset.y_train, whole.y_train)


# What all have in common.


def test_a_download_is_checked_and_found_again(cifar_files, tmp_path, network):
    asked, content = network
    url = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
    good = (cifar_files / "cifar10" / "cifar-10-binary.tar.gz").read_bytes()
    content[url] = good + b"x"
    with pytest.raises(FileNotFoundError, match=r"cifar10 is not on .* hash"):
        load("cifar10")
    assert not any(file.is_file() for file in (tmp_path / "cache").rglob("*"))
    content[url] = good
    for _ in range(2):
        assert len(load("cifar10").x_train) == 10
    assert asked == [url] * 2


@pytest.mark.parametrize("name", [name for name in module.NAMES if name != "digits"])
def test_offline_and_absent_says_what_to_do(name, tmp_path):
    with pytest.raises(FileNotFoundError, match=r" is not on .*offline.*Put .*HEAVYTAIL_DATA"):
        load(name, tmp_path)


@pytest.mark.parametrize(("name", "error"), [("cifar", ValueError), (None, TypeError)])
def test_an_unknown_name(name, error):
    with pytest.raises(error, match=r"name must be one of \['cifar10', .*'mnist-centred'\]"):
        load(name)


@pytest.mark.parametrize(
    ("name", "train", "tests"),
    [
        ("ecg5000", 500, [2627, 1873]),
        ("mnist", 60_000, [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]),
        ("cifar10-subset", 7000, [103, 89, 100, 103, 90, 86, 112, 102, 106, 109]),
        ("cifar10", 50_000, [1000] * 10),
        ("cifar100", 50_000, [100] * 100),
    ],
)
def test_the_real_data(name, train, tests):
    if not Path(REAL, name.replace("-", "_")).is_dir():
        pytest.skip(f"$HEAVYTAIL_DATA holds no {name}")
    real = load(name, REAL)
    assert len(real.x_train) == train
    assert real.y_test.bincount().tolist() == tests
    assert float(real.x_train.mean()) == pytest.approx(0, abs=0.02)
    assert float(real.x_train.std()) == pytest.approx(1, abs=0.02)
