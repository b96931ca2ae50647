"""Tiny networks of every sort that is exported, with what they take."""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import Tensor, nn

import lrpet
from helpers import images, realistic_

RANDOM = torch.Generator().manual_seed(0)
TOKENS = torch.randint(0, 30, (2, 7), generator=RANDOM)


class Tokens(nn.Module):
    """A transformer over tokens that returns what transformers' models do: a mapping, with tensors nested in it."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(30, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.head = nn.Linear(16, 5)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, scale: float = 1.0) -> dict[str, Any]:
        assert attention_mask is not None
        hidden = self.layer(self.embedding(input_ids), src_key_padding_mask=attention_mask == 0)
        return {"logits": scale * self.head(hidden).mean(1), "states": (hidden,), "cache": None}


class Two(nn.Module):
    """Two inputs by position, two outputs by position."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        hidden = (self.first(x) + shift).relu()
        return hidden, self.second(hidden)


def convolutional(groups: int = 1) -> nn.Module:
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, groups=groups),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 4),
    )
    return realistic_(model, images(16, 3, 10, 10))


def vision_transformer() -> nn.Module:
    return timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=5)


#: {name: (the network, example inputs, further inputs of another batch size)}.
NETWORKS: dict[str, tuple[Any, Any, Any]] = {
    "batch norm": (convolutional, images(1, 3, 10, 10), images(5, 3, 10, 10)),
    "grouped": (lambda: convolutional(4), images(2, 3, 10, 10), images(5, 3, 10, 10)),
    "vision transformer": (vision_transformer, images(2, 3, 32, 32), images(5, 3, 32, 32)),
    "tokens": (
        Tokens,
        {"input_ids": TOKENS, "attention_mask": torch.ones(2, 7, dtype=torch.int64), "scale": 2.0},
        {"attention_mask": torch.ones(5, 7, dtype=torch.int64), "input_ids": TOKENS[[0, 1, 1, 0, 1]], "scale": 2.0},
    ),
    "two": (Two, (images(2, 6), images(8)), (images(5, 6), images(8))),
}


def compact(name: str) -> tuple[nn.Module, Any, Any]:
    """Return the network's compact form, its example and its further inputs."""
    torch.manual_seed(0)
    make, example, more = NETWORKS[name]
    model = make()
    return lrpet.compress(model, example, keep=0.5), example, more
