"""Batches of a small set, which lies on the training device whole: the loop never waits for data."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from lrpet.train.data.dataset import Dataset, MemoryImages
from lrpet.train.data.normalise import Normalise
from lrpet.train.data.options import BatchOptions, mixed


class MemoryBatches:
    """Batches that are cropped, flipped and normalised at once, on the device."""

    def __init__(
        self, images: MemoryImages, dataset: Dataset, options: BatchOptions, *, device: torch.device, train: bool
    ) -> None:
        padding = dataset.crop_padding if options.crop_padding is None else options.crop_padding
        flip = dataset.flip if options.flip is None else options.flip
        self.padding, self.flip = padding if train else 0, flip and train
        # The border is black, as if cut out of a padded image file: pixels are padded before they are normalised.
        self.pixels = F.pad(images.pixels.to(device), (self.padding,) * 4)
        self.labels = images.labels.to(device)
        self.side = images.pixels.shape[-2:]
        self.options, self.train, self.epoch, self.done = options, train, 0, 0
        self.normalise = Normalise(dataset, device=device, channels_last=options.channels_last)

    def __len__(self) -> int:
        whole = len(self.labels) / self.options.batch_size
        return math.floor(whole) if self.train else math.ceil(whole)

    def set_epoch(self, epoch: int, *, done: int = 0) -> None:
        """Choose the epoch whose order and augmentation the next iteration has, and how many batches it leaves out."""
        self.epoch, self.done = epoch, done

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self._shuffled() if self.train else self._in_order()

    def _in_order(self) -> Iterator[tuple[Tensor, Tensor]]:
        size = self.options.batch_size
        for begin in range(0, len(self.labels), size):
            part = self.options.own(slice(begin, begin + size), train=False)
            if len(labels := self.labels[part]):
                yield self.normalise(self.pixels[part]), labels

    def _shuffled(self) -> Iterator[tuple[Tensor, Tensor]]:
        count, device = len(self.labels), self.labels.device
        size, repeats = self.options.batch_size, self.options.repeats
        # Drawn on the CPU, all at once: equal on every device, and no draw depends on how batches are consumed.
        generator = torch.Generator().manual_seed(mixed(self.options.seed, self.epoch))
        order = torch.randperm(count, generator=generator).to(device)
        order = order[: math.ceil(count / repeats)].repeat_interleave(repeats)[:count]
        offsets = torch.randint(0, 2 * self.padding + 1, (2, count), generator=generator).to(device)
        flipped = (torch.rand(count, generator=generator) < 0.5).to(device)
        for begin in range(self.done * size, len(self) * size, size):
            part = self.options.own(slice(begin, begin + size), train=True)
            images = self._cut(self.pixels[order[part]], offsets[:, part], flipped[part])
            yield self.normalise(images), self.labels[order[part]]

    def _cut(self, padded: Tensor, offsets: Tensor, flipped: Tensor) -> Tensor:
        """Cut a window of the images' own size out of each padded image, at its offset; mirror the flipped ones."""
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
