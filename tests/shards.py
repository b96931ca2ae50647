"""What each of several processes does to its shard of one network."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import lrpet
from replicas import EXAMPLE, OPTIONS, Attending, network, other_statistics_

TOKENS = torch.randint(20, (8, 6), generator=torch.Generator().manual_seed(0))


def sharded(model: nn.Module, *parts: nn.Module, hybrid: bool = False) -> nn.Module:
    """Shard some parts by themselves, and the rest together."""
    size = dist.get_world_size()
    shape, names = ((2, size // 2), ("copies", "shards")) if hybrid else ((size,), ("shards",))
    mesh = init_device_mesh("cpu", shape, mesh_dim_names=names)
    for part in (*parts, model):
        fully_shard(part, mesh=mesh)
    return model


def whole(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters put together from all shards."""
    return {name: parameter.full_tensor().detach().clone() for name, parameter in model.named_parameters()}  # type: ignore[attr-defined]


def projected(hybrid: bool) -> list[dict[str, Any]]:
    """Project a sharded network twice with each of the options; return whole weights and reports."""
    found = []
    for options in OPTIONS:
        model = network()
        other_statistics_(model, dist.get_rank())
        plan = lrpet.plan(model, EXAMPLE, keep=0.3)
        projector = lrpet.Projector(model, plan, total_steps=2, start=0, every=1, **options)
        sharded(model, model[6], model[9], hybrid=hybrid)  # type: ignore[index]
        projector.step()
        report = projector.step()
        assert report is not None
        layers = {name: (layer.energy, layer.energy_after, layer.pruned) for name, layer in report.layers.items()}
        found.append({"weights": whole(model), "layers": layers})
    return found


def language_model_trained(sharding: bool, folder: Path) -> dict[str, Any]:
    """Train a language model, its ranks divided at the first projection; save it, and return what it computes as loaded."""
    torch.manual_seed(0)
    model = Attending()
    plan = lrpet.plan(model, TOKENS, params=0.7, multiple_of=1, allocate="energy")
    if sharding:
        sharded(model, *model.blocks)
    projector = lrpet.Projector(model, plan, total_steps=8, every=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(8):
        optimizer.zero_grad()
        logits, narrow = model(TOKENS.roll(step, 0))
        loss: Tensor = nn.functional.cross_entropy(logits.mT, TOKENS.roll(step, 0)) + narrow.square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        projector.step()
    weights = whole(model) if sharding else {name: each.detach().clone() for name, each in model.named_parameters()}
    compact, outputs = projector.finish().eval(), []
    if not sharding or dist.get_rank() == 0:
        lrpet.save(compact, folder / "compact")
        loaded = lrpet.load(folder / "compact", Attending()).eval()
        outputs = [output.detach() for output in loaded(TOKENS)]
    return {
        "weights": weights,
        "ranks": projector.plan.ranks,
        "planned": plan.ranks,
        "outputs": outputs,
        "tied": compact.get_parameter("head.weight") is compact.get_parameter("embedding.weight"),
        "devices": sorted({parameter.device.type for parameter in compact.parameters()}),
    }


def losing(folder: Path) -> str:
    """Project where process 1 ends when rows are to be exchanged; return the error's text."""
    from lrpet.sharding import work

    model = network()
    projector = lrpet.Projector(model, lrpet.plan(model, EXAMPLE, keep=0.3), total_steps=1, start=0, every=1)
    sharded(model)
    if dist.get_rank() == 1:
        torch.save("ended", folder / "1.pt")
        vars(work)["to_owners"] = lambda *_: os._exit(0)
    try:
        projector.step()
    except RuntimeError as error:
        return str(error)
    raise AssertionError("nothing was raised")


def refused() -> list[str]:
    """Return why weights that are placed otherwise are refused."""
    from torch.distributed.tensor import Shard, distribute_tensor

    messages = []
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for placement in (Shard(1),):
        first = nn.Linear(16, 16)
        model = nn.Sequential(first, nn.Linear(16, 16))
        plan = lrpet.plan(model, torch.randn(1, 16), keep=0.3)
        first.weight = nn.Parameter(distribute_tensor(first.weight.detach(), mesh, [placement]))
        try:
            lrpet.Projector(model, plan, total_steps=1, start=0, every=1).step()
        except ValueError as error:
            messages.append(str(error))
    of_shards = sharded(network())
    calibrated = lrpet.Projector(
        of_shards, lrpet.plan(network(), EXAMPLE, keep=0.3), start=0, every=1, calibration=[EXAMPLE]
    )
    try:
        calibrated.project()
    except ValueError as error:
        messages.append(str(error))
    return messages
