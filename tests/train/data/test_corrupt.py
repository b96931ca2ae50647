"""Corrupt images: named, and refused or left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from helpers import write_folder
from lrpet.train.data import decoding
from lrpet.train.data.batches import batches
from lrpet.train.data.dataset import Dataset
from lrpet.train.data.options import Batches, BatchOptions
from lrpet.train.data.sets import load


def damaged(whole: bytes, how: str) -> bytes:
    if how == "empty":
        return b""
    if how == "cut":
        return whole[: len(whole) // 2]
    if how == "text":
        return b"this is no image"
    assert how == "flipped"
    middle = len(whole) // 2
    return whole[:middle] + bytes(255 - byte for byte in whole[middle : middle + 40]) + whole[middle + 40 :]


def folder(path: Path, how: str = "text", images: tuple[str, ...] = ("cat/3.png",)) -> Dataset:
    """A folder whose parts have damaged images."""
    write_folder(path)
    for part in ("train", "val"):
        for image in images:
            file = path / part / image
            file.write_bytes(damaged(file.read_bytes(), how))
    return load(f"folder:{path}", image_size=16)


def made(dataset: Dataset, *, train: bool, **options: Any) -> Batches:
    part = dataset.train if train else dataset.test
    return batches(part, dataset, BatchOptions(4, **options), device=torch.device("cpu"), train=train)


@pytest.mark.parametrize("how", ["empty", "cut", "text", "flipped"])
@pytest.mark.parametrize("train", [True, False])
def test_a_corrupt_image_is_named_and_refused(tmp_path: Path, how: str, train: bool) -> None:
    dataset = folder(tmp_path, how)
    with pytest.raises(ValueError, match=r"cat/3\.png is no readable image: .*\. Or set on_corrupt to skip\."):
        list(made(dataset, train=train))
    assert dataset.corrupt == {}


@pytest.mark.parametrize("workers", [0, 2])
def test_scoring_leaves_corrupt_images_out(tmp_path: Path, workers: int) -> None:
    dataset = folder(tmp_path, images=("cat/0.png", "cat/1.png", "cat/2.png", "cat/3.png", "dog/2.png"))
    seen = list(made(dataset, train=False, on_corrupt="skip", num_workers=workers))
    assert [labels.tolist() for _, labels in seen] == [[0, 0, 1, 1], [1, 1, 1]]  # nothing is left of the first four
    assert [len(images) for images, _ in seen] == [4, 3]
    names = [str(tmp_path / "val" / name) for name in ("cat/0.png", "cat/1.png", "cat/2.png", "cat/3.png", "dog/2.png")]
    assert sorted(dataset.corrupt) == names


def test_training_puts_the_next_image_in_place_of_a_corrupt_one(tmp_path: Path) -> None:
    """Batches stay whole, other images are what they would be, and the choice depends on nothing but the set."""
    whole, dataset = folder(tmp_path / "whole", images=()), folder(tmp_path / "some", images=("cat/5.png",))
    of_all, of_some = (list(made(each, train=True, on_corrupt="skip")) for each in (whole, dataset))
    again = list(made(dataset, train=True, on_corrupt="skip", num_workers=2))
    assert all(torch.equal(one[0], other[0]) for one, other in zip(of_some, again, strict=True))
    assert [len(images) for images, _ in of_some] == [4, 4, 4]
    images, other = (torch.cat([batch for batch, _ in each]) for each in (of_all, of_some))
    labels, replaced = (torch.cat([batch for _, batch in each]) for each in (of_all, of_some))
    differ = [i for i in range(12) if not torch.equal(images[i], other[i])]
    assert len(differ) == 1
    assert labels[differ].tolist() == [0]
    assert replaced[differ].tolist() == [1]  # the image after the last cat is the first dog
    assert list(dataset.corrupt) == [str(tmp_path / "some" / "train" / "cat" / "5.png")]


def test_many_in_a_row_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "ROW", 3)
    dataset = folder(tmp_path, images=("cat/1.png", "cat/2.png", "cat/3.png"))
    with pytest.raises(ValueError, match=r"3 images one after the other are corrupt, from .*cat/1\.png on"):
        list(made(dataset, train=True, on_corrupt="skip"))


def test_a_file_that_cannot_be_read_is_refused_all_the_same(tmp_path: Path) -> None:
    dataset = folder(tmp_path, images=())
    (tmp_path / "train" / "dog" / "4.png").unlink()
    with pytest.raises(ValueError, match=r"dog/4\.png cannot be read: .*No such file"):
        list(made(dataset, train=True, on_corrupt="skip"))
