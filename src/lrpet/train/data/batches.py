"""Batches for training (shuffled, augmented, whole batches only) and for scoring (in order, as they are, all of them)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from lrpet.train.data.sets import Batches, Dataset, FileImages, Images, MemoryImages


def batches(
    images: Images,
    dataset: Dataset,
    *,
    batch_size: int,
    device: torch.device,
    train: bool,
    seed: int = 0,
    crop_padding: int | None = None,
    flip: bool | None = None,
    channels_last: bool = False,
    num_workers: int = 0,
    repeats: int = 1,
) -> Batches:
    """Batches of `images`, a part of `dataset`, normalised with the set's statistics.

    `crop_padding` and `flip` are the set's usual ones unless given; they apply in training only, as `repeats` does: an epoch
    is then as long as ever, of `repeats` differently augmented copies of each of fewer images, side by side.

    Raises ValueError for `repeats` of images in files, which are augmented by their place in the set.
    """
    if repeats > 1 and not isinstance(images, MemoryImages):
        raise ValueError(f"repeats={repeats} is for data that fits into memory, not for image files")
    if isinstance(images, MemoryImages):
        return MemoryBatches(
            images,
            dataset,
            batch_size=batch_size,
            device=device,
            train=train,
            seed=seed,
            crop_padding=dataset.crop_padding if crop_padding is None else crop_padding,
            flip=dataset.flip if flip is None else flip,
            channels_last=channels_last,
            repeats=repeats,
        )
    return FileBatches(
        images,
        dataset,
        batch_size=batch_size,
        device=device,
        train=train,
        seed=seed,
        flip=dataset.flip if flip is None else flip,
        channels_last=channels_last,
        num_workers=num_workers,
    )


class MemoryBatches:
    """Batches of images that lie on the device whole."""

    def __init__(
        self,
        images: MemoryImages,
        dataset: Dataset,
        *,
        batch_size: int,
        device: torch.device,
        train: bool,
        seed: int = 0,
        crop_padding: int = 0,
        flip: bool = False,
        channels_last: bool = False,
        repeats: int = 1,
    ) -> None:
        self.repeats = repeats
        self.padding = crop_padding if train else 0
        # The border is black, as cut out of a padded image file: padded before anything is normalised.
        self.pixels = F.pad(images.pixels.to(device), (self.padding,) * 4)
        self.labels = images.labels.to(device)
        self.side = images.pixels.shape[-2:]
        self.batch_size, self.train, self.seed, self.flip = batch_size, train, seed, flip and train
        self.mean = 255 * torch.tensor(dataset.mean, device=device).view(-1, 1, 1)
        self.scale = 1 / (255 * torch.tensor(dataset.std, device=device).view(-1, 1, 1))
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.epoch = 0

    def __len__(self) -> int:
        whole = len(self.labels) / self.batch_size
        return math.floor(whole) if self.train else math.ceil(whole)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order and augmentation the next iteration has."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        count, device = len(self.labels), self.labels.device
        if not self.train:
            for begin in range(0, count, self.batch_size):
                part = slice(begin, begin + self.batch_size)
                yield self._normalised(self.pixels[part]), self.labels[part]
            return
        # Drawn on the CPU, all at once: the same on every device, and no draw depends on how batches are consumed.
        generator = torch.Generator().manual_seed(_mixed(self.seed, self.epoch))
        order = torch.randperm(count, generator=generator).to(device)
        order = order[: math.ceil(count / self.repeats)].repeat_interleave(self.repeats)[:count]
        offsets = torch.randint(0, 2 * self.padding + 1, (2, count), generator=generator).to(device)
        flipped = (torch.rand(count, generator=generator) < 0.5).to(device)
        for begin in range(0, len(self) * self.batch_size, self.batch_size):
            part = slice(begin, begin + self.batch_size)
            images = self._cut(self.pixels[order[part]], offsets[:, part], flipped[part])
            yield self._normalised(images), self.labels[order[part]]

    def _cut(self, padded: Tensor, offsets: Tensor, flipped: Tensor) -> Tensor:
        """A window of the images' own size from each padded image, at its offset; some mirrored."""
        if not self.padding and not self.flip:
            return padded
        height, width = self.side
        rows = offsets[0, :, None] + torch.arange(height, device=padded.device)
        columns = torch.arange(width, device=padded.device).expand(len(padded), -1)
        if self.flip:
            columns = torch.where(flipped[:, None], width - 1 - columns, columns)
        columns = columns + offsets[1, :, None]
        image = torch.arange(len(padded), device=padded.device)[:, None, None]
        # The indexed dimensions come first: (batch, height, width, channels).
        return padded.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)

    def _normalised(self, pixels: Tensor) -> Tensor:
        return ((pixels.float() - self.mean) * self.scale).contiguous(memory_format=self.format)


class _Files(TorchDataset[tuple[Tensor, int]]):
    """Decodes and transforms one image file; in training, with random numbers of its own for each image and epoch."""

    def __init__(self, images: FileImages, transform: Any, seed: int | None) -> None:
        self.images, self.transform, self.seed = images, transform, seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image

        try:
            with Image.open(self.images.paths[index]) as file:
                image = file.convert("RGB")
        except (OSError, Image.DecompressionBombError) as error:
            raise ValueError(f"{self.images.paths[index]} is no readable image: {error}") from None
        with torch.random.fork_rng(devices=[]):
            if self.seed is not None:
                torch.default_generator.manual_seed(_mixed(self.seed, self.epoch, index))  # the CPU's alone
            return self.transform(image), int(self.images.labels[index])


class FileBatches:
    """Batches of image files, read and augmented by workers."""

    def __init__(
        self,
        images: FileImages,
        dataset: Dataset,
        *,
        batch_size: int,
        device: torch.device,
        train: bool,
        seed: int = 0,
        flip: bool = True,
        channels_last: bool = False,
        num_workers: int = 0,
    ) -> None:
        from torchvision.transforms import v2

        side = images.image_size
        crop = (
            [v2.RandomResizedCrop(side), v2.RandomHorizontalFlip(0.5 if flip else 0.0)]
            if train
            else [v2.Resize(side * 256 // 224), v2.CenterCrop(side)]
        )
        finish = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(dataset.mean, dataset.std)]
        self.files = _Files(images, v2.Compose([*crop, *finish]), seed if train else None)
        self.batch_size, self.device, self.train, self.seed = batch_size, device, train, seed
        self.num_workers = num_workers
        self.format = torch.channels_last if channels_last else torch.contiguous_format

    def __len__(self) -> int:
        whole = len(self.files) / self.batch_size
        return math.floor(whole) if self.train else math.ceil(whole)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order and augmentation the next iteration has."""
        self.files.epoch = epoch

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.Generator().manual_seed(_mixed(self.seed, self.files.epoch))
        loader = DataLoader(
            self.files,
            batch_size=self.batch_size,
            shuffle=self.train,
            drop_last=self.train,
            generator=order,
            num_workers=self.num_workers,
            pin_memory=self.device.type == "cuda",
        )
        for images, labels in loader:
            moved = images.to(self.device, non_blocking=True).contiguous(memory_format=self.format)
            yield moved, labels.to(self.device, non_blocking=True)


def _mixed(*numbers: int) -> int:
    """One seed from several numbers, so that neighbours share nothing (splitmix64's finaliser)."""
    mask, state = 2**64 - 1, 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) & mask
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
        state ^= state >> 31
    return state
