"""From bytes to normalised numbers, on the training device."""

from __future__ import annotations

import torch
from torch import Tensor

from lrpet.train.data.dataset import Dataset


class Normalise:
    """Turns uint8 images (B, C, H, W) into float32, less the mean and over the deviation of each channel of a set."""

    def __init__(self, dataset: Dataset, *, device: torch.device, channels_last: bool) -> None:
        self.mean = 255 * torch.tensor(dataset.mean, device=device).view(-1, 1, 1)
        self.scale = 1 / (255 * torch.tensor(dataset.std, device=device).view(-1, 1, 1))
        self.format = torch.channels_last if channels_last else torch.contiguous_format

    def __call__(self, pixels: Tensor) -> Tensor:
        """Return normalised images, in the memory layout that was asked for."""
        return ((pixels.float() - self.mean) * self.scale).contiguous(memory_format=self.format)
