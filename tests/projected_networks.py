"""The network that projectors are tried on, and what tells when they project."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import lrpet
from helpers import images


def network(seed: int = 0, *, width: int = 12) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 16, 3, stride=2),
        nn.Flatten(),
        nn.Linear(16 * 9, 20),
        nn.ReLU(),
        nn.Linear(20, 10),
    )


EXAMPLE = images(1, 3, 8, 8)


def values(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def due(projector: lrpet.Projector, steps: int) -> list[int]:
    """The steps, of the next so many, at which it projects."""
    first = projector.steps + 1
    reports = {step: projector.step() for step in range(first, first + steps)}
    assert all(report.step == step for step, report in reports.items() if report is not None)
    return [step for step, report in reports.items() if report is not None]
