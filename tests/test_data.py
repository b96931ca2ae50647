"""Image sets: published formats, damage, splits; batches: order, augmentation, determinism."""

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
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lrpet.train.batches import FileBatches, MemoryBatches, batches
from lrpet.train.data import Dataset, FileImages, MemoryImages, load, split
from lrpet.train.formats import read_idx

CPU = torch.device("cpu")
BATCHES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
PER_FILE = 20


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
    monkeypatch.setattr("lrpet.train.data.DEBIAN_FASHION_MNIST", tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no route to host") as caught:
        load(name, tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "put" in str(caught.value)


def test_download_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(root: str, *, download: bool) -> None:
        write_python(Path(root) / "cifar-10-batches-py")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", download)
    assert len(load("cifar10", tmp_path).train) == 5 * PER_FILE


def test_digits() -> None:
    dataset = load("digits")
    assert pixels(dataset).shape == (len(dataset.train), 1, 8, 8)
    assert len(dataset.train) + len(dataset.test) == 1797
    assert len(dataset.test) == pytest.approx(0.2 * 1797, abs=5)
    assert pixels(dataset).max() == 255
    assert torch.equal(load("digits").test.labels, dataset.test.labels)


@pytest.mark.parametrize("name", ["mnist", "", "folder"])
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="digits, cifar10"):
        load(name)


def write_folder(
    path: Path, parts: tuple[str, ...] = ("train", "val"), classes: tuple[str, ...] = ("cat", "dog")
) -> None:
    random = np.random.default_rng(2)
    for part in parts:
        for label in classes:
            (path / part / label).mkdir(parents=True)
            for i in range(6):
                array = random.integers(0, 256, (20 + i, 30, 3), dtype=np.uint8)
                Image.fromarray(array).save(path / part / label / f"{i}.png")


def test_folder_of_images(tmp_path: Path) -> None:
    write_folder(tmp_path)
    dataset = load(f"folder:{tmp_path}", image_size=16)
    assert dataset.classes == ("cat", "dog")
    assert dataset.train.labels.tolist() == [0] * 6 + [1] * 6
    firsts: list[torch.Tensor] = []
    for workers in (0, 2):
        train = batches(dataset.train, dataset, batch_size=4, device=CPU, train=True, seed=1, num_workers=workers)
        assert isinstance(train, FileBatches)
        assert len(train) == 3
        first, again = list(train), list(train)
        assert all(images.shape == (4, 3, 16, 16) for images, _ in first)
        assert all(torch.equal(a, b) for (a, _), (b, _) in zip(first, again, strict=True))
        train.set_epoch(1)
        assert not torch.equal(first[0][0], next(iter(train))[0])
        firsts.append(first[0][0])
    assert torch.equal(*firsts)  # however many workers
    test = batches(dataset.test, dataset, batch_size=5, device=CPU, train=False)
    assert [len(labels) for _, labels in test] == [5, 5, 2]
    assert torch.equal(next(iter(test))[0], next(iter(test))[0])


def test_folder_prefers_its_test_part(tmp_path: Path) -> None:
    write_folder(tmp_path, ("train", "val", "test"))
    dataset = load(f"folder:{tmp_path}")
    assert isinstance(dataset.test, FileImages)
    assert all("/test/" in path for path in dataset.test.paths)


def test_bad_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="needs a folder train"):
        load(f"folder:{tmp_path / 'nowhere'}")
    write_folder(tmp_path, ("train",))
    write_folder(tmp_path, ("val",), ("cat", "horse"))
    with pytest.raises(ValueError, match="dog, horse"):
        load(f"folder:{tmp_path}")


def test_unreadable_image_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "val" / "cat" / "3.png").write_bytes(b"not an image")
    dataset = load(f"folder:{tmp_path}", image_size=16)
    with pytest.raises(ValueError, match=r"cat/3\.png"):
        list(batches(dataset.test, dataset, batch_size=4, device=CPU, train=False))


@settings(max_examples=50, deadline=None)
@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    holdout=st.floats(0, 0.99),
    seed=st.integers(0, 2**31),
)
def test_split_is_stratified_disjoint_and_repeatable(counts: list[int], holdout: float, seed: int) -> None:
    labels = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
    images = MemoryImages(torch.arange(len(labels)).view(-1, 1, 1, 1), labels)
    train, held = split(images, holdout=holdout, seed=seed)
    assert isinstance(train, MemoryImages)
    assert isinstance(held, MemoryImages)
    together = torch.cat([train.pixels, held.pixels]).flatten()
    assert sorted(together.tolist()) == list(range(len(labels)))
    for label, count in enumerate(counts):
        assert (held.labels == label).sum() == round(holdout * count)
    again = split(images, holdout=holdout, seed=seed)[1]
    assert torch.equal(again.labels, held.labels)


@pytest.mark.parametrize("holdout", [-0.1, 1.0, float("nan")])
def test_split_refuses_nonsense(holdout: float) -> None:
    with pytest.raises(ValueError, match="holdout"):
        split(load("digits").train, holdout=holdout, seed=0)


def small_set(count: int = 50, side: int = 6) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(1, 256, (count, 3, side, side), generator=generator, dtype=torch.uint8)
    part = MemoryImages(images, torch.arange(count))
    values = images.double() / 255
    mean, std = values.mean((0, 2, 3)), values.std((0, 2, 3), correction=0)
    return Dataset("small", part, part, ("a",), 3, side, tuple(mean.tolist()), tuple(std.tolist()))


def memory(dataset: Dataset, **options: Any) -> MemoryBatches:
    assert isinstance(dataset.train, MemoryImages)
    return MemoryBatches(dataset.train, dataset, device=CPU, **{"batch_size": 8, "train": True, **options})


def test_training_sees_each_image_once_an_epoch_in_a_new_order() -> None:
    every = memory(small_set(48))
    orders = []
    for epoch in (0, 1):
        every.set_epoch(epoch)
        orders.append(torch.cat([labels for _, labels in every]).tolist())
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(48))
    assert orders[0] != orders[1]
    assert len(memory(small_set(50))) == 6  # the remainder is left out, another one each epoch


def test_epochs_repeat_exactly_and_seeds_differ() -> None:
    one, two, other = (memory(small_set(), crop_padding=2, flip=True, seed=seed) for seed in (5, 5, 6))
    for each in (one, two, other):
        each.set_epoch(3)
    next(iter(two))  # an abandoned iteration leaves no trace
    first, second, third = (torch.cat([images for images, _ in each]) for each in (one, two, other))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


def test_repeated_augmentation_shows_fewer_images_more_often() -> None:
    dataset = load("digits")
    options: dict[str, Any] = {"batch_size": 30, "device": torch.device("cpu"), "crop_padding": 2, "flip": False}
    seen = batches(dataset.train, dataset, train=True, repeats=3, **options)
    assert len(seen) == len(batches(dataset.train, dataset, train=True, **options))
    for images, labels in seen:
        assert (labels.view(10, 3) == labels[::3, None]).all()
        assert not torch.equal(images[0::3], images[1::3])
    scored = batches(dataset.train, dataset, train=False, repeats=3, **options)
    assert torch.equal(torch.cat([labels for _, labels in scored]), dataset.train.labels)


def test_scoring_sees_all_images_in_order_as_they_are() -> None:
    dataset = small_set()
    parts = list(memory(dataset, train=False, crop_padding=2, flip=True))
    assert [len(labels) for _, labels in parts] == [8] * 6 + [2]
    assert torch.cat([labels for _, labels in parts]).tolist() == list(range(50))
    images = torch.cat([images for images, _ in parts])
    torch.testing.assert_close(images.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(images.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5, rtol=0)


@pytest.mark.parametrize("padding", [0, 1, 3])
@pytest.mark.parametrize("flip", [False, True])
def test_crops_and_flips_are_those_of_padded_images(padding: int, flip: bool) -> None:
    """Every augmented image is one of the windows of its padded image, mirrored or not; many different ones occur."""
    dataset, side = small_set(), 6
    assert isinstance(dataset.train, MemoryImages)
    each = memory(dataset, crop_padding=padding, flip=flip)
    seen = set()
    for images, labels in each:
        raw = (images / each.scale + each.mean).round().to(torch.uint8)
        for image, label in zip(raw, labels.tolist(), strict=True):
            padded = torch.nn.functional.pad(dataset.train.pixels[label], (padding,) * 4)
            found = [
                (top, left, mirrored)
                for top in range(2 * padding + 1)
                for left in range(2 * padding + 1)
                for mirrored in ((False, True) if flip else (False,))
                if torch.equal(
                    padded[:, top : top + side, left : left + side].flip(-1)
                    if mirrored
                    else padded[:, top : top + side, left : left + side],
                    image,
                )
            ]
            assert len(found) == 1
            seen.update(found)
    assert len(seen) > 0.3 * (2 * padding + 1) ** 2 * (1 + flip) or not (padding or flip)
    assert {mirrored for _, _, mirrored in seen} == ({False, True} if flip else {False})


def test_channels_last() -> None:
    images, _ = next(iter(memory(small_set(), channels_last=True)))
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_the_usual_augmentation_is_the_default() -> None:
    dataset = load("digits")
    each = batches(dataset.train, dataset, batch_size=8, device=CPU, train=True)
    assert isinstance(each, MemoryBatches)
    assert (each.padding, each.flip) == (1, False)
    each = batches(dataset.train, dataset, batch_size=8, device=CPU, train=True, crop_padding=0, flip=True)
    assert isinstance(each, MemoryBatches)
    assert (each.padding, each.flip) == (0, True)
