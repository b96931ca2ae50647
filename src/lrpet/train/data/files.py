"""Batches of encoded images, read and augmented by worker processes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import islice

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Sampler

from lrpet.train.data.dataset import Dataset, FileImages
from lrpet.train.data.decoding import Decoded, collated
from lrpet.train.data.normalise import Normalise
from lrpet.train.data.options import BatchOptions, mixed
from lrpet.train.data.transforms import transform

#: So many shards, chosen at random, are shuffled together.
WINDOW = 16


class FileBatches:
    """Batches of image files: random crops of random size for training, the middle of each image for scoring.

    Raises ValueError for `crop_padding`. Going through them raises ValueError for an image that cannot be read, and for a
    corrupt one unless these are to be skipped; then `dataset.corrupt` names it.
    """

    def __init__(
        self, images: FileImages, dataset: Dataset, options: BatchOptions, *, device: torch.device, train: bool
    ) -> None:
        if options.crop_padding is not None:
            raise ValueError(
                f"crop_padding={options.crop_padding} is for data that fits into memory: leave it out, since image files "
                "are cropped at a random place and scale"
            )
        seed = options.seed if train else None
        pipeline = transform(dataset, options, train=train)
        self.files = Decoded(images, pipeline, seed=seed, on_corrupt=options.on_corrupt)
        self.corrupt = dataset.corrupt
        self.options, self.device, self.train, self.done = options, device, train, 0
        self.normalise = Normalise(dataset, device=device, channels_last=options.channels_last)

    def __len__(self) -> int:
        whole = len(self.files) / self.options.batch_size
        return math.floor(whole) if self.train else math.ceil(whole)

    def set_epoch(self, epoch: int, *, done: int = 0) -> None:
        """Choose the epoch whose order and augmentation the next iteration has, and how many batches it leaves out."""
        self.files.epoch, self.done = epoch, done

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(mixed(self.options.seed, self.files.epoch))
        order = (
            _shuffled(self.files.images, generator, repeats=self.options.repeats)
            if self.train
            else range(len(self.files))
        )
        loader = DataLoader(
            self.files,
            batch_sampler=_Shared(order, self.options, train=self.train, done=self.done),
            collate_fn=collated,
            generator=generator,
            num_workers=self.options.num_workers,
            pin_memory=self.device.type == "cuda",
        )
        for images, labels, corrupt, refused in loader:
            if refused is not None:
                raise ValueError(refused)
            self.corrupt.update(corrupt)
            if images is not None:
                moved = images.to(self.device, non_blocking=True)  # as bytes, a quarter of what they become
                yield self.normalise(moved), labels.to(self.device, non_blocking=True)


class _Shared(Sampler[list[int]]):
    """Batches of numbers of images, of each of which this process gets its part; the first that are `done` are left out."""

    def __init__(self, order: Sequence[int], options: BatchOptions, *, train: bool, done: int) -> None:
        self.batches = BatchSampler(order, options.batch_size, drop_last=train)
        self.options, self.train, self.done = options, train, done

    def __iter__(self) -> Iterator[list[int]]:
        for batch in islice(self.batches, self.done, None):
            if own := batch[self.options.own(slice(0, len(batch)), train=self.train)]:
                yield own


def _shuffled(images: FileImages, generator: torch.Generator, *, repeats: int = 1) -> list[int]:
    """Return the places of images in a random order; of shards, one window after the other, for the disk's sake.

    Copies stand side by side, the second of image i as i + N, where N is the number of images; N places are returned in all.
    """
    count = len(images)
    if images.source.shards is None:
        order = torch.randperm(count, generator=generator)
    else:
        shards = images.source.shards[images.numbers]
        window = torch.randperm(int(shards.max()) + 1, generator=generator)[shards] // WINDOW
        order = (window + torch.rand(count, dtype=torch.float64, generator=generator)).argsort()
    copies = order[: math.ceil(count / repeats), None] + count * torch.arange(repeats)
    return copies.flatten()[:count].tolist()
