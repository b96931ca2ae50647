"""A network of two convolutions in a plain loop of six steps, and what tells whether it is low-rank."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lrpet
from helpers import images


def data() -> DataLoader[tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (48,), generator=generator)
    return DataLoader(TensorDataset(images(48, 3, 6, 6), labels), batch_size=8)


def rank_of(weight: Tensor) -> int:
    values = torch.linalg.svdvals(weight.detach().flatten(1))
    return int((values > 1e-4 * values[0]).sum())


def assert_low_rank(model: nn.Module, plan: lrpet.Plan) -> None:
    assert plan.ranks
    for name, layer in plan.bind(model).items():
        assert rank_of(layer.matrices().flatten(0, 1)) <= plan.ranks[name]


def planned(model: nn.Module, **options: Any) -> lrpet.Projector:
    plan = lrpet.plan(model, images(1, 3, 6, 6), keep=0.34)
    return lrpet.Projector(model, plan, **{"start": 0, **options})


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    accumulate: int = 1,
    scaler: Any = None,
    steps: slice = slice(None),
) -> None:
    for i, (x, y) in enumerate(list(data())[steps]):
        loss = nn.functional.cross_entropy(model(x), y)
        (loss if scaler is None else scaler.scale(16 * loss)).backward()
        if (i + 1) % accumulate == 0:
            optimizer.step() if scaler is None else scaler.step(optimizer)
            if scaler is not None:
                scaler.update()
            optimizer.zero_grad()
