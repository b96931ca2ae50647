"""Batches: order, augmentation, determinism."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from lrpet.train.data.batches import batches
from lrpet.train.data.dataset import Dataset, MemoryImages
from lrpet.train.data.memory import MemoryBatches
from lrpet.train.data.options import BatchOptions
from lrpet.train.data.sets import load

CPU = torch.device("cpu")


def small_set(count: int = 50, side: int = 6) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(1, 256, (count, 3, side, side), generator=generator, dtype=torch.uint8)
    part = MemoryImages(images, torch.arange(count))
    values = images.double() / 255
    mean, std = values.mean((0, 2, 3)), values.std((0, 2, 3), correction=0)
    return Dataset("small", part, part, ("a",), 3, side, tuple(mean.tolist()), tuple(std.tolist()))


def memory(dataset: Dataset, *, train: bool = True, **options: Any) -> MemoryBatches:
    assert isinstance(dataset.train, MemoryImages)
    return MemoryBatches(dataset.train, dataset, BatchOptions(8, **options), device=CPU, train=train)


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
    once = BatchOptions(30, crop_padding=2, flip=False)
    thrice = replace(once, repeats=3)
    seen = batches(dataset.train, dataset, thrice, device=CPU, train=True)
    assert len(seen) == len(batches(dataset.train, dataset, once, device=CPU, train=True))
    for images, labels in seen:
        assert (labels.view(10, 3) == labels[::3, None]).all()
        assert not torch.equal(images[0::3], images[1::3])
    scored = batches(dataset.train, dataset, thrice, device=CPU, train=False)
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
        raw = (images / each.normalise.scale + each.normalise.mean).round().to(torch.uint8)
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
    each = batches(dataset.train, dataset, BatchOptions(8), device=CPU, train=True)
    assert isinstance(each, MemoryBatches)
    assert (each.padding, each.flip) == (1, False)
    each = batches(dataset.train, dataset, BatchOptions(8, crop_padding=0, flip=True), device=CPU, train=True)
    assert isinstance(each, MemoryBatches)
    assert (each.padding, each.flip) == (0, True)


@pytest.mark.parametrize("bad", [{"batch_size": 0}, {"repeats": 0}, {"num_workers": -1}, {"crop_padding": -1}])
def test_options_out_of_range_are_refused(bad: dict[str, Any]) -> None:
    (name,) = bad
    with pytest.raises(ValueError, match=f"{name}={bad[name]} must be at least"):
        BatchOptions(**{"batch_size": 8, **bad})
