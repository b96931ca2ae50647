"""Where a weight is: in this process alone, in every process, or in parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class Placement:
    """The processes that share the work on a weight; this class stands for a process alone."""

    rank: int = 0
    """This process among them."""
    size: int = 1
    group: Any = field(default=None, repr=False)
    """Their process group; None for a process alone."""
    speaks: bool = True
    """Whether what this process finds counts where all say what they found: one of several that find it does."""


@dataclass(frozen=True)
class Replicated(Placement):
    """Every process holds the whole weight, as under DistributedDataParallel."""


@dataclass(frozen=True)
class Sharded(Placement):
    """Every process holds some of the weight's rows, as under `fully_shard`."""

    copies: Any = field(default=None, repr=False)
    """The group of processes that hold the rows of this one, under hybrid sharding."""


ALONE = Placement()


def placement_of(name: str, weight: Tensor) -> Placement:
    """Return where a weight is.

    Raises ValueError, with the layer's name, if it is split along columns, or along several axes of the device mesh.
    """
    if not is_together():
        return ALONE
    if not is_dtensor(weight):
        return _over(Replicated, dist.group.WORLD)
    mesh, placements = weight.device_mesh, weight.placements  # type: ignore[attr-defined]
    axes = [axis for axis, each in enumerate(placements) if not each.is_replicate() and mesh.size(axis) > 1]
    if not axes:
        return _over(Replicated, dist.group.WORLD)
    (axis, *others), kind = axes, placements[axes[0]]
    if others or type(kind).__name__ != "Shard" or kind.dim != 0:
        split = ", ".join(map(str, placements))
        raise ValueError(
            f"the weight of {name!r} is placed as ({split}): only weights that are sharded by rows along one axis of the "
            "device mesh, as by fully_shard, can be projected, not tensor parallel ones"
        )
    copies = [mesh.get_group(other) for other in range(mesh.ndim) if other != axis and mesh.size(other) > 1]
    if len(copies) > 1:
        raise ValueError(f"the weight of {name!r} is replicated along {len(copies)} axes of the device mesh: use one")
    group = copies[0] if copies else None
    return _over(Sharded, mesh.get_group(axis), copies=group, speaks=group is None or dist.get_rank(group) == 0)


def is_together() -> bool:
    """Tell whether this process trains together with others."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def is_dtensor(tensor: Tensor) -> bool:
    """Tell whether this is a DTensor, without importing what makes one."""
    return hasattr(tensor, "to_local") and hasattr(tensor, "placements")


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor put together from all shards; every process sends what it holds of it."""
    together: Tensor = tensor.full_tensor() if is_dtensor(tensor) else tensor  # type: ignore[attr-defined]
    return together


def reshard(model: nn.Module) -> None:
    """Let every weight that `fully_shard` gathered for a forward pass be sharded again: changes of a gathered one are lost."""
    if dist.is_available() and dist.is_initialized():
        from torch.distributed.fsdp import FSDPModule

        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()


def owners(costs: Sequence[float], size: int) -> list[int]:
    """Return which of `size` processes does each piece of work, so that all have about as much to do.

    The most costly piece comes first, each to the process that has least. Every process finds one result.
    """
    loads, result = [0.0] * size, [0] * len(costs)
    for i in sorted(range(len(costs)), key=lambda i: -costs[i]):
        result[i] = loads.index(min(loads))
        loads[result[i]] += costs[i]
    return result


def _over(kind: type[Placement], group: Any, **more: Any) -> Placement:
    return kind(dist.get_rank(group), dist.get_world_size(group), group, **more)
