"""Published formats of image sets, and damage."""

from __future__ import annotations

import builtins
import gzip
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision

from lrpet.train.data import formats
from lrpet.train.data.dataset import Dataset, MemoryImages
from lrpet.train.data.formats import read_cifar_pickle, read_idx
from lrpet.train.data.sets import load

BATCHES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
PER_FILE = 20


@pytest.fixture(autouse=True)
def _small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let files of twenty images pass for whole ones."""
    monkeypatch.setattr(formats, "PER_FILE", PER_FILE)


def cifar_arrays() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    random = np.random.default_rng(0)
    return {
        name: (random.integers(0, 256, (PER_FILE, 3072), dtype=np.uint8), random.permutation(PER_FILE) % 10)
        for name in BATCHES
    }


def write_binary(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name, (images, labels) in cifar_arrays().items():
        np.concatenate([labels[:, None].astype(np.uint8), images], 1).tofile(folder / f"{name}.bin")


def write_python(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name, (images, labels) in cifar_arrays().items():
        (folder / name).write_bytes(pickle.dumps({b"data": images, b"labels": labels.tolist()}, protocol=2))


def write_idx(folder: Path, *, zipped: bool) -> None:
    folder.mkdir(parents=True)
    random = np.random.default_rng(1)
    for part, count in (("train", 40), ("t10k", 10)):
        images = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            data = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
            path = folder / f"{part}-{name}-ubyte{'.gz' if zipped else ''}"
            path.write_bytes(gzip.compress(data) if zipped else data)


def pixels(dataset: Dataset) -> torch.Tensor:
    assert isinstance(dataset.train, MemoryImages)
    return dataset.train.pixels


@pytest.mark.parametrize("named", [True, False], ids=["in data_dir", "data_dir itself"])
def test_cifar_layouts_agree(tmp_path: Path, named: bool) -> None:
    write_binary(tmp_path / "a" / "cifar-10-batches-bin")
    write_python(tmp_path / "b" / "cifar-10-batches-py")
    places = [tmp_path / "a", tmp_path / "b"]
    if not named:
        places = [tmp_path / "a" / "cifar-10-batches-bin", tmp_path / "b" / "cifar-10-batches-py"]
    first, second = (load("cifar10", place) for place in places)
    assert torch.equal(pixels(first), pixels(second))
    assert torch.equal(first.train.labels, second.train.labels)
    assert torch.equal(first.test.labels, second.test.labels)
    images, labels = cifar_arrays()["data_batch_2"]
    assert pixels(first).shape == (5 * PER_FILE, 3, 32, 32)
    assert torch.equal(pixels(first)[PER_FILE], torch.from_numpy(images[0]).view(3, 32, 32))
    assert first.train.labels[PER_FILE] == labels[0]
    assert (first.crop_padding, first.flip, len(first.classes)) == (4, True, 10)


class Evil:
    """Unpickled without care, this calls a function."""

    def __init__(self, function: Callable[..., Any], *args: object) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def wrong_label(path: Path) -> None:
    path.write_bytes(b"\x0a" + path.read_bytes()[1:])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def test_a_gzipped_file_is_unpacked_no_further_than_its_set_goes(tmp_path: Path) -> None:
    """What says much in little would fill the memory."""
    path = tmp_path / "train-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(bytes(2**24)) * 1000)
    with pytest.raises(ValueError, match="holds more than 67,108,864 bytes"):
        read_idx(path)


@pytest.mark.parametrize("damage", [truncated, wrong_label, emptied, Path.unlink])
def test_damaged_binary_files_are_named(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    write_binary(tmp_path / "cifar-10-batches-bin")
    damage(tmp_path / "cifar-10-batches-bin" / "data_batch_3.bin")
    with pytest.raises(ValueError, match=r"data_batch_3\.bin"):
        load("cifar10", tmp_path)


@pytest.mark.parametrize("damage", [truncated, emptied, Path.unlink])
def test_damaged_python_files_are_named(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    write_python(tmp_path / "cifar-10-batches-py")
    damage(tmp_path / "cifar-10-batches-py" / "test_batch")
    with pytest.raises(ValueError, match="test_batch"):
        load("cifar10", tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        {b"data": np.zeros((2, 3072), np.float32), b"labels": [0, 1]},
        {b"data": np.zeros((2, 5), np.uint8)},
        {b"data": np.zeros((2, 3072), np.uint8), b"labels": [1.5, 2.5]},
        {b"data": np.zeros((2, 3072), np.uint8), b"labels": [None, None]},
        {b"data": np.zeros((2, 3072), np.uint8), b"labels": ["a", "b"]},
        {b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 10]},
        [1, 2],
    ],
)
def test_other_pickles_are_refused(tmp_path: Path, content: object) -> None:
    write_python(tmp_path / "cifar-10-batches-py")
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(ValueError, match="data_batch_1"):
        load("cifar10", tmp_path)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    ("function", "argument"),
    [(Path.touch, "{}"), (os.system, "touch '{}'"), (builtins.eval, "open({!r}, 'w').close()")],
    ids=["touch", "system", "eval"],
)
def test_a_pickle_cannot_run_code(tmp_path: Path, function: Callable[..., Any], argument: str, protocol: int) -> None:
    write_python(tmp_path / "cifar-10-batches-py")
    filled = argument.format(str(tmp_path / "touched"))
    evil = pickle.dumps(
        {b"data": Evil(function, Path(filled) if function is Path.touch else filled)}, protocol=protocol
    )
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(evil)
    with pytest.raises(ValueError, match="it asks for"):
        load("cifar10", tmp_path)
    assert not (tmp_path / "touched").exists()
    pickle.loads(evil)  # the trap itself works
    assert (tmp_path / "touched").exists()


def test_files_with_fewer_images_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that was cut between two images holds nothing that is wrong in itself."""
    write_binary(tmp_path / "cifar-10-batches-bin")
    path = tmp_path / "cifar-10-batches-bin" / "data_batch_3.bin"
    path.write_bytes(path.read_bytes()[:-3073])
    with pytest.raises(ValueError, match=r"data_batch_3\.bin holds 19 images, not 20"):
        load("cifar10", tmp_path)
    monkeypatch.setattr(formats, "LARGEST", 1000)
    with pytest.raises(ValueError, match="more than any file of its set"):
        load("cifar10", tmp_path)


HEADER = b"\x80\x02"
NDARRAY, U1 = b"cnumpy\nndarray\n", b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR"


@pytest.mark.parametrize(
    "content",
    [
        # numpy.ndarray called with a shape beyond memory, and with a buffer that is none
        HEADER + b"}U\x04data" + NDARRAY + b"(J\xff\xff\xff\x7fJ\xff\xff\xff\x7ftRs.",
        HEADER + b"}U\x04data" + NDARRAY + b"(K\x02K\x03tRs.",
        # a dtype of objects, whose bytes would be taken for pointers
        pickle.dumps({b"data": np.array([None, 1], dtype=object), b"labels": [0, 1]}, protocol=2),
        pickle.dumps({b"data": np.zeros((2, 3072), "V1"), b"labels": [0, 1]}, protocol=2),
        # a number for a value that makes room for four thousand million of them
        HEADER + b"]r\xff\xff\xff\xff.",
        HEADER + b"}U\x04data" + U1 + b"s.",
    ],
    ids=["shape beyond memory", "array called", "objects", "void", "memo", "dtype for data"],
)
def test_forged_pickles_make_nothing(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "data_batch_1"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="no batch of CIFAR-10"):
        read_cifar_pickle(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_fashion_mnist(tmp_path: Path, zipped: bool) -> None:
    write_idx(tmp_path / "FashionMNIST" / "raw", zipped=zipped)
    for place in (tmp_path, tmp_path / "FashionMNIST" / "raw"):
        dataset = load("fashion-mnist", place)
        assert pixels(dataset).shape == (40, 1, 28, 28)
        assert len(dataset.test) == 10
        assert dataset.test.labels.tolist() == list(range(10))


@pytest.mark.parametrize("damage", [truncated, emptied, Path.unlink])
@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_idx_files_are_named(tmp_path: Path, damage: Callable[[Path], None], zipped: bool) -> None:
    write_idx(tmp_path / "data", zipped=zipped)
    damage(tmp_path / "data" / f"t10k-images-idx3-ubyte{'.gz' if zipped else ''}")
    with pytest.raises(ValueError, match="t10k-images-idx3-ubyte"):
        load("fashion-mnist", tmp_path / "data")


def test_every_damaged_byte_of_a_gzipped_file_is_a_value_error(tmp_path: Path) -> None:
    values = np.repeat(np.arange(8, dtype=np.uint8), 98)
    whole = gzip.compress(bytes([0, 0, 8, 3]) + struct.pack(">3I", 1, 28, 28) + values.tobytes())
    path = tmp_path / "train-images-idx3-ubyte.gz"
    for at in range(10, len(whole)):  # the first ten bytes are gzip's header, of which some mean nothing
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        with pytest.raises(ValueError, match="train-images-idx3-ubyte"):
            read_idx(path)


@pytest.mark.parametrize(
    ("kind", "shape", "body"),
    [
        (8, (0, 28, 28), b""),
        (8, (2**31, 2**31, 4), b""),
        (8, (3,), b"12"),
        (11, (2,), b"1234"),
    ],
    ids=["no images", "product beyond 64 bits", "too short", "16-bit values"],
)
def test_odd_idx_files_are_named(tmp_path: Path, kind: int, shape: tuple[int, ...], body: bytes) -> None:
    path = tmp_path / "odd-idx3-ubyte"
    path.write_bytes(bytes([0, 0, kind, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + body)
    with pytest.raises(ValueError, match="odd-idx3-ubyte"):
        read_idx(path)


def test_idx_images_must_be_square_and_as_many_as_labels(tmp_path: Path) -> None:
    write_idx(tmp_path / "data", zipped=False)
    path = tmp_path / "data" / "train-images-idx3-ubyte"
    for shape, message in (((40, 28, 20), "28×20"), ((39, 28, 28), "do not belong together")):
        path.write_bytes(bytes([0, 0, 8, 3]) + struct.pack(">3I", *shape) + bytes(int(np.prod(shape))))
        with pytest.raises(ValueError, match=message):
            load("fashion-mnist", tmp_path / "data")


@pytest.mark.parametrize(("name", "kind"), [("cifar10", "CIFAR10"), ("fashion-mnist", "FashionMNIST")])
def test_offline_says_what_to_put_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str) -> None:
    def offline(root: str, *, download: bool) -> None:
        assert download
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.datasets, kind, offline)
    monkeypatch.setattr("lrpet.train.data.sets.DEBIAN_FASHION_MNIST", tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no route to host") as caught:
        load(name, tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "put" in str(caught.value)


def test_download_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(root: str, *, download: bool) -> None:
        write_python(Path(root) / "cifar-10-batches-py")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", download)
    assert len(load("cifar10", tmp_path).train) == 5 * PER_FILE
