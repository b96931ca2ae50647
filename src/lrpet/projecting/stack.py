"""Layers that are projected together: their weights as one batch of matrices."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lrpet.layers.matrix import Unfolding, fold, row_scale, scale_of_rows, unfold, weight_of
from lrpet.planning.plan import Plan

#: On a CPU, layers whose smaller side is at most this are solved together; larger ones keep its cores busy by themselves.
STACKED_UP_TO = 128
#: The most numbers in one stack.
STACK_ELEMENTS = 2**24


@dataclass(frozen=True)
class Member:
    """A layer to be projected."""

    name: str
    module: nn.Module
    unfolding: Unfolding
    batch_norm: nn.Module | None
    """What is folded in."""
    rank: int
    """What it is projected to, each group."""

    @property
    def matrices(self) -> Tensor:
        """Its weight, (groups, rows, columns); a view where it can be one."""
        return unfold(self.module, self.unfolding)

    def rows(self, channels: Tensor) -> Tensor:
        """A number for each channel as one for each row of the matrices, (groups, rows)."""
        return scale_of_rows(channels, self.module, self.unfolding)


@dataclass(frozen=True)
class Stack:
    """Layers equal in all that matters to a solver: shape, rank, type, device, and whether a batch norm is folded in."""

    members: tuple[Member, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Of its layers."""
        return tuple(member.name for member in self.members)

    @property
    def rank(self) -> int:
        """Of every matrix when projected."""
        return self.members[0].rank

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of each layer: groups, rows, columns."""
        groups, rows, columns = self.members[0].matrices.shape
        return groups, rows, columns

    def matrices(self) -> Tensor:
        """The weights of all layers and groups, shape (batch, rows, columns); of a single layer, a view where it can be."""
        return _together([member.matrices for member in self.members])

    def row_scale(self) -> Tensor | None:
        """What folds the batch norms in, shape (batch, rows)."""
        scales = [member.rows(row_scale(norm)) for member in self.members if (norm := member.batch_norm) is not None]
        return _together(scales) if scales else None

    def energies(self, scale: Tensor | None) -> tuple[Tensor, Tensor]:
        """The energy of every matrix with `scale` folded in, shape (batch,), and whether each layer is finite, (layers,)."""
        matrices = self.matrices()
        dtype = torch.promote_types(matrices.dtype, torch.float32)
        rows = torch.linalg.vector_norm(matrices, dim=-1, dtype=dtype)
        energy = (rows if scale is None else rows * scale).square().sum(-1)
        finite = energy.isfinite() & rows.isfinite().all(-1)
        if scale is not None:  # an infinite variance makes a finite scale, 0
            finite &= _together([_variances(member) for member in self.members]).isfinite().all(-1)
        return energy, finite.view(len(self.members), -1).all(-1)

    def write(self, matrices: Tensor) -> None:
        """Set the weights, unless `matrices` are views of them."""
        for member, own in zip(self.members, matrices.chunk(len(self.members)), strict=True):
            weight = weight_of(member.module)
            if own.data_ptr() != weight.data_ptr():
                weight.copy_(fold(own, member.module, member.unfolding))


def members(model: nn.Module, plan: Plan, ranks: Mapping[str, int], *, rectify: bool) -> list[Member]:
    """The plan's layers at these ranks; of those that share a weight, the first. Raises ValueError if they are not there."""
    modules = plan.modules(model)
    first: dict[int, str] = {}
    for name, module in modules.items():
        first.setdefault(id(weight_of(module)), name)
    found = []
    for layer in plan.layers:
        if layer.name in first.values():
            partner = layer.batch_norm if rectify else None
            norm = None if partner is None else model.get_submodule(partner)
            found.append(Member(layer.name, modules[layer.name], layer.unfolding, norm, ranks[layer.name]))
    return found


def stacked(layers: list[Member]) -> list[Stack]:
    """All of them in stacks."""
    together: dict[Any, list[Member]] = defaultdict(list)
    for member in layers:
        weight, shape = weight_of(member.module), member.matrices.shape
        small = min(shape[1:]) <= STACKED_UP_TO or weight.is_cuda
        alike = (shape, member.rank, member.batch_norm is None, weight.dtype, weight.device)
        together[alike if small else member.name].append(member)
    stacks = []
    for alike_members in together.values():
        most = max(1, STACK_ELEMENTS // weight_of(alike_members[0].module).numel())
        stacks += [Stack(tuple(alike_members[i : i + most])) for i in range(0, len(alike_members), most)]
    return stacks


def _together(tensors: list[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


def _variances(member: Member) -> Tensor:
    variance = getattr(member.batch_norm, "running_var", None)
    assert isinstance(variance, Tensor)
    return member.rows(variance)
