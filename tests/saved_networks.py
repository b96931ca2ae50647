"""Compact networks to save, and what tells whether they came back as they were."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

import lrpet
from helpers import images, realistic_
from lrpet.models.factory import create

EXAMPLE = images(2, 3, 32, 32)


class Tied(nn.Module):
    """A language model whose output layer is its embedding; a buffer of whole numbers, and one that is not saved."""

    steps: Tensor
    mask: Tensor

    def __init__(self, *, width: int = 12) -> None:
        super().__init__()
        self.words = nn.Embedding(20, width)
        self.hidden = nn.Linear(width, width)
        self.head = nn.Linear(width, 20, bias=False)
        self.head.weight = self.words.weight
        self.register_buffer("steps", torch.tensor(3))
        self.register_buffer("mask", torch.full((width,), 2.0), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.hidden(self.words(tokens)) * self.mask)  # type: ignore[no-any-return]


TOKENS = torch.arange(6).view(2, 3)


def compact_resnet(keep: float = 0.25) -> nn.Module:
    torch.manual_seed(0)
    model = realistic_(create("resnet20", num_classes=7), EXAMPLE)
    plan = lrpet.plan(model, EXAMPLE[:1], keep=keep)
    lrpet.Projector(model, plan, start=0, every=1).step()
    return lrpet.factorize(model, plan)


def compact_tied(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    model = Tied().to(dtype).eval()
    model.steps += 4
    return lrpet.factorize(model, lrpet.plan(model, TOKENS, ranks={"hidden": 3}))


def assert_same(got: nn.Module, expected: nn.Module) -> None:
    tensors = got.state_dict()
    assert tensors.keys() == expected.state_dict().keys()
    for name, tensor in expected.state_dict().items():
        assert tensors[name].dtype == tensor.dtype, name
        assert torch.equal(tensors[name], tensor), name
    assert got.lrpet_plan == expected.lrpet_plan
    assert not any(module.training for module in got.modules())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
