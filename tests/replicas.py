"""What each of several processes does to its replica of one network."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import lrpet
from helpers import images, weight

EXAMPLE = images(2, 3, 8, 8)
OPTIONS: list[dict[str, Any]] = [{}, {"tail_scale": 0.5}, {"solver": "svd", "rectify": False}]


def network() -> nn.Module:
    """Return a network with batch norms, a grouped convolution, equal layers and a wide linear."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Conv2d(12, 24, 3, padding=1, groups=2),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.Conv2d(24, 24, 3, padding=1, bias=False),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.Conv2d(24, 24, 3, padding=1, bias=False),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(96, 160),
        nn.ReLU(),
        nn.Linear(160, 10),
    )


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters as they are."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@torch.no_grad()
def other_statistics_(model: nn.Module, seed: int) -> None:
    """Give every batch norm statistics and scales of its own."""
    random = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            variance = module.running_var
            assert variance is not None
            variance.copy_(torch.rand(module.num_features, generator=random) + 0.1)


def projected_once(options: dict[str, Any]) -> dict[str, Any]:
    """Project twice, with batch norms whose statistics differ between processes; return the weights and the report."""
    model = network()
    other_statistics_(model, dist.get_rank() if dist.is_initialized() else 0)
    plan = lrpet.plan(model, EXAMPLE, keep=0.3)
    projector = lrpet.Projector(model, plan, total_steps=2, start=0, every=1, **options)
    projector.step()
    report = projector.step()
    assert report is not None
    layers = {name: (layer.energy, layer.energy_after, layer.pruned) for name, layer in report.layers.items()}
    return {"weights": tensors(model), "layers": layers}


def projected() -> list[dict[str, Any]]:
    """Return what `projected_once` comes to with each of the options."""
    return [projected_once(options) for options in OPTIONS]


def calibrated(inputs: list[Tensor]) -> dict[str, Any]:
    """Project by the outputs on this process's part of some inputs, the budget divided by them; return weights and ranks."""
    model = network().eval()
    plan = lrpet.plan(model, EXAMPLE, macs=0.5, allocate="energy")
    size, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    projector = lrpet.Projector(model, plan, total_steps=1, start=0, every=1, calibration=inputs[rank::size])
    projector.step()
    return {"weights": tensors(model), "ranks": projector.plan.ranks}


def failing() -> dict[str, Any]:
    """Project where process 1 has a NaN in every weight that it owns; return the error's text."""
    model = network()
    plan = lrpet.plan(model, EXAMPLE, keep=0.3)
    projector = lrpet.Projector(model, plan, total_steps=1, start=0, every=1)
    if dist.get_rank() == 1:
        with torch.no_grad():
            for name in plan.ranks:
                parameter = model.get_parameter(f"{name}.weight")
                parameter[0, 0] = torch.nan
    before = tensors(model)
    try:
        projector.step()
    except ValueError as error:
        after = tensors(model)
        unchanged = all(torch.equal(before[name].nan_to_num(), after[name].nan_to_num()) for name in before)
        return {"message": str(error), "unchanged": unchanged}
    raise AssertionError("nothing was raised")


def losing(folder: Path) -> str:
    """Project where process 1 ends in the middle; return the error's text."""
    model = network()
    projector = lrpet.Projector(model, lrpet.plan(model, EXAMPLE, keep=0.3), total_steps=1, start=0, every=1)
    if dist.get_rank() == 1:
        torch.save("ended", folder / "1.pt")
        projector._transfer = lambda each: os._exit(0)  # type: ignore[method-assign]
    try:
        projector.step()
    except RuntimeError as error:
        return str(error)
    raise AssertionError("nothing was raised")


def planning_apart() -> str:
    """Project by a plan of this process's own; return the error's text."""
    model = network()
    plan = lrpet.plan(model, EXAMPLE, keep=0.3 if dist.get_rank() else 0.4)
    try:
        lrpet.Projector(model, plan, total_steps=1, start=0, every=1).step()
    except ValueError as error:
        return str(error)
    raise AssertionError("nothing was raised")


def copying() -> dict[str, Any]:
    """Project a copy in process 0 alone; return what it was projected to."""
    model = network()
    projector = lrpet.Projector(model, lrpet.plan(model, EXAMPLE, keep=0.3), total_steps=1, start=0, every=1)
    if dist.get_rank():
        return {"ranks": {}}
    copied = projector.projected_copy(model)
    ranks = {name: int(torch.linalg.matrix_rank(weight(copied, name))) for name in ("6", "9", "14")}
    assert all(rank <= projector.plan.ranks[name] for name, rank in ranks.items())
    return {"ranks": ranks}


def trained(options: dict[str, Any]) -> dict[str, Any]:
    """Train under DistributedDataParallel, each process on its own images; return weights, plan and compact outputs."""
    model = network()
    rank, size = dist.get_rank(), dist.get_world_size()
    wrapped = DistributedDataParallel(model, broadcast_buffers=options.pop("broadcast_buffers", True))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    plan = lrpet.plan(model, EXAMPLE, macs=0.5, multiple_of=1)
    projector = lrpet.Projector(wrapped, plan, total_steps=12, every=2, **options)
    x, y = images(16 * size, 3, 8, 8, seed=5), torch.arange(16 * size) % 10
    for step in range(12):
        mine = slice(16 * rank, 16 * (rank + 1))
        optimizer.zero_grad()
        loss: Tensor = nn.functional.cross_entropy(wrapped(x[mine] + 0.1 * step), y[mine])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        projector.step()
    compact = projector.finish().eval()
    return {
        "weights": tensors(model),
        "ranks": projector.plan.ranks,
        "planned": plan.ranks,
        "pruned": projector.last.pruned if projector.last else None,
        "compact": dict(compact.named_parameters()),
    }


class Attending(nn.Module):
    """A small language model: an attention with a packed weight, tied embeddings, and layers of 3 and 5 rows."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 16)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(16, 2, 40, batch_first=True, dropout=0.0) for _ in range(2)
        )
        self.narrow = nn.Sequential(nn.Linear(16, 5), nn.ReLU(), nn.Linear(5, 3))
        self.head = nn.Linear(16, 20, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.embedding(tokens)
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(hidden), self.narrow(hidden)
