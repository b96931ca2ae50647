"""The demo's task: to read scikit-learn's 8×8 digits, turned, resized, shifted and noisy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIDE = 12
Part = tuple[Tensor, Tensor]
"""Images and their labels."""


@dataclass(frozen=True)
class Digits:
    """The 1,797 digits in three parts."""

    training: Part
    """Undistorted: every batch is distorted anew."""
    validation: Part
    """Distorted once and for all, to choose by."""
    test: Part
    """Distorted once and for all, to be looked at once, at the end."""

    @classmethod
    def load(cls) -> Digits:
        """Read the digits that come with scikit-learn."""
        from sklearn.datasets import load_digits

        values, classes = load_digits(return_X_y=True)
        images, labels = torch.tensor(values, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(classes)
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
        test, validation, training = ((images[part], labels[part]) for part in order.tensor_split([400, 800]))
        return cls(training, several(validation, copies=1, seed=1), several(test, copies=5, seed=2))

    def batches(self, steps: int, *, size: int, seed: int) -> Iterator[Part]:
        """Yield so many random batches for training."""
        images, labels = self.training
        random = torch.Generator().manual_seed(seed)
        for _ in range(steps):
            chosen = torch.randint(len(labels), (size,), generator=random)
            yield distorted(images[chosen], random), labels[chosen]


def several(part: Part, *, copies: int, seed: int) -> Part:
    """Return so many distorted copies of every image."""
    images, labels = part
    return distorted(images.repeat(copies, 1, 1, 1), torch.Generator().manual_seed(seed)), labels.repeat(copies)


def distorted(images: Tensor, random: torch.Generator) -> Tensor:
    """Return the digits turned by up to 20°, resized and shifted, on a larger and noisy ground."""

    def between(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(len(images), generator=random)

    angle, zoom = torch.deg2rad(between(-20, 20)), between(1.08, 1.68)
    rows = [[zoom * angle.cos(), -zoom * angle.sin(), between(-0.35, 0.35)]]
    rows += [[zoom * angle.sin(), zoom * angle.cos(), between(-0.35, 0.35)]]
    maps = torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)
    grid = F.affine_grid(maps, [len(images), 1, SIDE, SIDE], align_corners=False)
    images = F.grid_sample(images, grid, align_corners=False)
    return (images + 0.15 * torch.randn(images.shape, generator=random) - 0.3) / 0.4


@torch.no_grad()
def accuracy(network: nn.Module, part: Part) -> float:
    """Return the fraction of images that `network` reads right; its mode is left as it was."""
    was_training = network.training
    network.eval()
    chunks = zip(*(torch.split(each, 400) for each in part), strict=True)
    right = sum(int((network(images).argmax(1) == labels).sum()) for images, labels in chunks)
    network.train(was_training)
    return right / len(part[1])
