"""Image sets: bundled, folders of images, splits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import write_folder
from lrpet.train.data.batches import batches
from lrpet.train.data.dataset import FileImages, MemoryImages, split
from lrpet.train.data.files import FileBatches
from lrpet.train.data.options import BatchOptions
from lrpet.train.data.sets import load

CPU = torch.device("cpu")


def test_digits() -> None:
    dataset = load("digits")
    assert isinstance(dataset.train, MemoryImages)
    assert dataset.train.pixels.shape == (len(dataset.train), 1, 8, 8)
    assert len(dataset.train) + len(dataset.test) == 1797
    assert len(dataset.test) == pytest.approx(0.2 * 1797, abs=5)
    assert dataset.train.pixels.max() == 255
    assert torch.equal(load("digits").test.labels, dataset.test.labels)


@pytest.mark.parametrize("name", ["mnist", "", "folder"])
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="digits, cifar10"):
        load(name)


def test_folder_of_images(tmp_path: Path) -> None:
    write_folder(tmp_path)
    dataset = load(f"folder:{tmp_path}", image_size=16)
    assert dataset.classes == ("cat", "dog")
    assert dataset.train.labels.tolist() == [0] * 6 + [1] * 6
    firsts: list[torch.Tensor] = []
    for workers in (0, 2):
        train = batches(dataset.train, dataset, BatchOptions(4, seed=1, num_workers=workers), device=CPU, train=True)
        assert isinstance(train, FileBatches)
        assert len(train) == 3
        first, again = list(train), list(train)
        assert all(images.shape == (4, 3, 16, 16) for images, _ in first)
        assert all(torch.equal(a, b) for (a, _), (b, _) in zip(first, again, strict=True))
        train.set_epoch(1)
        assert not torch.equal(first[0][0], next(iter(train))[0])
        firsts.append(first[0][0])
    assert torch.equal(*firsts)  # however many workers
    test = batches(dataset.test, dataset, BatchOptions(5), device=CPU, train=False)
    assert [len(labels) for _, labels in test] == [5, 5, 2]
    assert torch.equal(next(iter(test))[0], next(iter(test))[0])


def test_padding_before_the_crop_is_not_for_image_files(tmp_path: Path) -> None:
    write_folder(tmp_path)
    dataset = load(f"folder:{tmp_path}", image_size=16)
    with pytest.raises(ValueError, match="crop_padding=4 is for data that fits into memory"):
        batches(dataset.train, dataset, BatchOptions(4, crop_padding=4), device=CPU, train=True)


def test_repeated_augmentation_of_image_files(tmp_path: Path) -> None:
    """Fewer images an epoch, the copies of each side by side, the first of them as without repeating."""
    write_folder(tmp_path)
    dataset = load(f"folder:{tmp_path}", image_size=16)
    once, thrice = (
        list(batches(dataset.train, dataset, BatchOptions(6, seed=1, repeats=repeats), device=CPU, train=True))
        for repeats in (1, 3)
    )
    assert [len(labels) for _, labels in thrice] == [6, 6]
    plain, repeated = (torch.cat([images for images, _ in each]) for each in (once, thrice))
    assert torch.equal(repeated[::3], plain[:4])
    assert not torch.equal(repeated[1::3], repeated[::3])
    assert not torch.equal(repeated[2::3], repeated[1::3])
    labels, expected = (torch.cat([labels for _, labels in each]) for each in (thrice, once))
    assert torch.equal(labels, expected[:4].repeat_interleave(3))


def test_folder_prefers_its_test_part(tmp_path: Path) -> None:
    write_folder(tmp_path, ("train", "val", "test"))
    dataset = load(f"folder:{tmp_path}")
    assert isinstance(dataset.test, FileImages)
    assert all("/test/" in dataset.test.source.name(number) for number in range(len(dataset.test)))


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
        list(batches(dataset.test, dataset, BatchOptions(4), device=CPU, train=False))


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
