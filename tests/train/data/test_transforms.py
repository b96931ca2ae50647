"""What becomes of image files: sizes, automatic augmentation, and that a seed decides it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from helpers import write_folder
from lrpet.train.data.batches import batches
from lrpet.train.data.options import BatchOptions
from lrpet.train.data.sets import load

CPU = torch.device("cpu")


def images(path: Path, *, train: bool = True, epoch: int = 0, **options: Any) -> Tensor:
    dataset = load(f"folder:{path}", image_size=16)
    part = dataset.train if train else dataset.test
    made = batches(part, dataset, BatchOptions(4, seed=1, **options), device=CPU, train=train)
    made.set_epoch(epoch)
    return torch.cat([batch for batch, _ in made])


@pytest.mark.parametrize("name", ["rand-m7-mstd0.5-inc1", "augmix-m3-w3", "original"])
def test_automatic_augmentation_changes_colours_by_seed_and_epoch(tmp_path: Path, name: str) -> None:
    """It draws from Python's and numpy's random numbers, which go on as if nothing had been drawn."""
    write_folder(tmp_path)
    before = np.random.get_state(legacy=False)["state"]["key"].copy()  # noqa: NPY002
    plain, one = images(tmp_path), images(tmp_path, auto_augment=name)
    assert (np.random.get_state(legacy=False)["state"]["key"] == before).all()  # noqa: NPY002
    assert not torch.equal(plain, one)
    assert torch.equal(one, images(tmp_path, auto_augment=name, num_workers=2))
    assert not torch.equal(one, images(tmp_path, auto_augment=name, epoch=1))
    assert torch.equal(*(images(tmp_path, train=False, auto_augment=other) for other in (name, None)))


def test_training_may_have_images_of_another_size(tmp_path: Path) -> None:
    write_folder(tmp_path)
    assert images(tmp_path, train_size=12).shape == (12, 3, 12, 12)
    assert images(tmp_path, train=False, train_size=12).shape == (12, 3, 16, 16)


@pytest.mark.parametrize(("crop", "resized"), [(0.875, 18), (0.5, 32)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_scoring_takes_the_middle(tmp_path: Path, crop: float, resized: int, interpolation: Any) -> None:
    write_folder(tmp_path)
    dataset = replace(load(f"folder:{tmp_path}", image_size=16), test_crop=crop, interpolation=interpolation)
    ((first, _), *_) = batches(dataset.test, dataset, BatchOptions(4), device=CPU, train=False)
    with Image.open(tmp_path / "val" / "cat" / "0.png") as image:
        cut = v2.CenterCrop(16)(v2.Resize(resized, v2.InterpolationMode(interpolation))(image.convert("RGB")))
    expected = v2.Normalize(dataset.mean, dataset.std)(v2.ToDtype(torch.float32, scale=True)(v2.PILToTensor()(cut)))
    torch.testing.assert_close(first[0], expected)


@pytest.mark.parametrize("bad", ["rand-x7", "random", "augmix-q3"])
def test_other_words_are_refused(tmp_path: Path, bad: str) -> None:
    write_folder(tmp_path)
    with pytest.raises(ValueError, match=f"auto_augment='{bad}' is not as timm writes it"):
        images(tmp_path, auto_augment=bad)
