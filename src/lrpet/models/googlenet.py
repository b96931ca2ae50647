"""GoogLeNet for 32×32 images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: Each block's widths: the 1×1; the 1×1 before the 3×3, and the 3×3; the 1×1 before the "5×5", and the "5×5"; the 1×1
#: after the pooling.
BLOCKS = {
    "a3": (64, 96, 128, 16, 32, 32),
    "b3": (128, 128, 192, 32, 96, 64),
    "a4": (192, 96, 208, 16, 48, 64),
    "b4": (160, 112, 224, 24, 64, 64),
    "c4": (128, 128, 256, 24, 64, 64),
    "d4": (112, 144, 288, 32, 64, 64),
    "e4": (256, 160, 320, 32, 128, 128),
    "a5": (256, 160, 320, 32, 128, 128),
    "b5": (384, 192, 384, 48, 128, 128),
}


def _unit(in_channels: int, channels: int, kernel: int) -> list[nn.Module]:
    conv = nn.Conv2d(in_channels, channels, kernel, padding=kernel // 2, bias=False)
    return [conv, nn.BatchNorm2d(channels), nn.ReLU()]


class Inception(nn.Module):
    """Four branches side by side; the 5×5 branch is two 3×3 convolutions."""

    def __init__(self, in_channels: int, widths: tuple[int, int, int, int, int, int]) -> None:
        super().__init__()
        one, three_in, three, five_in, five, pool = widths
        self.branches = nn.ModuleList(
            [
                nn.Sequential(*_unit(in_channels, one, 1)),
                nn.Sequential(*_unit(in_channels, three_in, 1), *_unit(three_in, three, 3)),
                nn.Sequential(*_unit(in_channels, five_in, 1), *_unit(five_in, five, 3), *_unit(five, five, 3)),
                nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), *_unit(in_channels, pool, 1)),
            ]
        )
        self.channels = one + three + five + pool

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, in_channels, h, w) to (batch, channels, h, w)."""
        return torch.cat([branch(x) for branch in self.branches], dim=1)


class GoogLeNet(nn.Module):
    """GoogLeNet (Szegedy et al., 2015) in the form that the pruning literature uses on CIFAR-10.

    It has batch norm, a single 3×3 stem of 192 channels, and no auxiliary heads. At 32×32 and 10 classes it has 1.52 G
    multiply-adds and 6.16 M parameters.
    """

    def __init__(self, *, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = _unit(in_channels, 192, 3)
        channels = 192
        for name, widths in BLOCKS.items():
            if name in ("a4", "a5"):
                layers.append(nn.MaxPool2d(3, stride=2, padding=1))
            block = Inception(channels, widths)
            layers.append(block)
            channels = block.channels
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (batch, in_channels, h, w) of any size to logits (batch, num_classes)."""
        logits: Tensor = self.fc(self.features(x))
        return logits
