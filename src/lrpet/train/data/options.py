"""How batches are made, what they are, and the seed of an epoch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import KW_ONLY, dataclass
from typing import Literal, Protocol

from torch import Tensor


@dataclass(frozen=True)
class BatchOptions:
    """How batches are made. Seed, crops, flips and repeats concern training alone.

    Processes that train together share every batch, so that an epoch has one order of images and as many steps as in one.
    """

    batch_size: int
    """Images in one step, of all processes together."""
    _: KW_ONLY
    seed: int = 0
    """Seed of the order and the augmentation."""
    crop_padding: int | None = None
    """Pixels padded before a random crop; None for what is usual for the data."""
    flip: bool | None = None
    """Whether images are mirrored at random; None for what is usual for the data."""
    repeats: int = 1
    """Differently augmented copies of each image, side by side; an epoch then has fewer images, not more batches."""
    auto_augment: str | None = None
    """Augmentation of image files, as timm writes it."""
    train_size: int | None = None
    """Side of image files in training, in pixels; None for that of scoring."""
    channels_last: bool = False
    """Whether batches have the memory layout NHWC."""
    num_workers: int = 0
    """Processes that read image files."""
    on_corrupt: Literal["error", "skip"] = "error"
    """Whether an image that cannot be decoded is refused, or left out."""
    rank: int = 0
    """Which of the processes that train together gets these batches."""
    processes: int = 1
    """How many processes share every batch."""

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("repeats", 1), ("num_workers", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}")
        if self.crop_padding is not None and self.crop_padding < 0:
            raise ValueError(f"crop_padding={self.crop_padding} must be at least 0")
        if self.batch_size % self.processes:
            raise ValueError(
                f"batch_size={self.batch_size} is the images of one step in all processes, and cannot be divided among "
                f"{self.processes}: choose a multiple"
            )

    def own(self, images: slice, *, train: bool) -> slice:
        """Return which images of a batch this process gets: an equal part in training, every so many else."""
        if not train:
            return slice(images.start + self.rank, images.stop, self.processes)
        each = self.batch_size // self.processes
        return slice(images.start + self.rank * each, images.start + (self.rank + 1) * each)


class Batches(Protocol):
    """The batches of one epoch: (float32 images (B, C, H, W), int64 labels (B,)) on the training device."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]: ...

    def set_epoch(self, epoch: int, *, done: int = 0) -> None:
        """Choose the epoch whose order and augmentation the next iteration has, and how many batches it leaves out."""
        ...


def mixed(*numbers: int) -> int:
    """Mix several numbers into one seed, so that neighbours share nothing (splitmix64's finaliser)."""
    mask, state = 2**64 - 1, 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) & mask
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
        state ^= state >> 31
    return state


def in_parts(batches: Iterable[tuple[Tensor, Tensor]], parts: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield every batch in so many equal parts."""
    for images, labels in batches:
        yield from zip(images.chunk(parts), labels.chunk(parts), strict=True)
