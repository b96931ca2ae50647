"""A set of images in its published parts, and the split of one part into two."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from lrpet.train.data.sources import Source


@dataclass(frozen=True, eq=False)
class MemoryImages:
    """Images held as one uint8 tensor of shape (N, C, H, W)."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Tensor) -> MemoryImages:
        """Return the images at `indices`, in the order of `indices`."""
        return MemoryImages(self.pixels[indices], self.labels[indices])


@dataclass(frozen=True, eq=False)
class FileImages:
    """Encoded images, read when a batch needs them."""

    source: Source
    numbers: Tensor
    """The number of each image in the source, of shape (N,)."""
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Tensor) -> FileImages:
        """Return the images at `indices`, in the order of `indices`."""
        return FileImages(self.source, self.numbers[indices], self.labels[indices])


Images = MemoryImages | FileImages


@dataclass(frozen=True, eq=False)
class Dataset:
    """A named set: its two published parts, and what a network needs to know about it."""

    name: str
    train: Images
    test: Images
    classes: tuple[str, ...]
    in_channels: int
    image_size: int
    mean: tuple[float, ...]
    """Mean of the training pixels, scaled to [0, 1], in each channel."""
    std: tuple[float, ...]
    """Standard deviation of the training pixels, scaled to [0, 1], in each channel."""
    crop_padding: int = 0
    """Pixels that are usually padded before a random crop."""
    flip: bool = False
    """Whether images are usually mirrored at random."""
    test_crop: float = 0.875
    """The fraction of the shorter side that scoring keeps of image files."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """How image files are resized."""
    corrupt: dict[str, str] = field(default_factory=dict)
    """{image: what its decoder said} of the images that this process has left out so far."""

    @property
    def outputs(self) -> int:
        """How many classes a network has to tell apart."""
        return len(self.classes)

    def example(self) -> Tensor:
        """Return a batch of one black image, shape (1, C, H, W)."""
        return torch.zeros(1, self.in_channels, self.image_size, self.image_size)

    @property
    def metadata(self) -> dict[str, Any]:
        """What belongs beside the weights of a network trained on this set."""
        return {
            "data": self.name,
            "classes": list(self.classes),
            "mean": list(self.mean),
            "std": list(self.std),
            "in_channels": self.in_channels,
            "image_size": self.image_size,
            **(
                {"test_crop": self.test_crop, "interpolation": self.interpolation}
                if isinstance(self.test, FileImages)
                else {}
            ),
        }


def split(images: Images, *, holdout: float, seed: int) -> tuple[Images, Images]:
    """Split `images` into a training part and a validation part, each in the order of `images`.

    The fraction `holdout` of each class, chosen by `seed`, goes to the validation part. Raises ValueError if `holdout` is
    not in [0, 1).
    """
    if not 0 <= holdout < 1:
        raise ValueError(f"holdout={holdout} must be at least 0 and below 1")
    held = torch.zeros(len(images), dtype=torch.bool)
    generator = torch.Generator().manual_seed(seed)
    for label in range(int(images.labels.max()) + 1):
        members = (images.labels == label).nonzero()[:, 0]
        order = torch.randperm(len(members), generator=generator)
        held[members[order[: round(holdout * len(members))]]] = True
    return images.subset((~held).nonzero()[:, 0]), images.subset(held.nonzero()[:, 0])
