"""Layers that are projected together: their weights as one batch of matrices."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lrpet.layers.matrix import MatrixLayer
from lrpet.layers.sound import sound_variance
from lrpet.projecting.subspace import Subspace
from lrpet.sharding.placement import Placement
from lrpet.sharding.work import Assigned

#: On a CPU, layers whose smaller side is at most this are solved together; larger ones keep its cores busy by themselves.
STACKED_UP_TO = 128
#: The most numbers in one stack.
STACK_ELEMENTS = 2**24


@dataclass(frozen=True)
class Stack:
    """Layers equal in all that matters to a solver: shape, rank, type, device, and whether a batch norm is folded in.

    One process projects them all.
    """

    work: tuple[Assigned, ...]
    rank: int
    """The rank that every matrix is projected to."""

    @property
    def layers(self) -> tuple[MatrixLayer, ...]:
        """Return the layers of the network."""
        return tuple(each.layer for each in self.work)

    @property
    def batch(self) -> int:
        """Return the number of matrices."""
        return sum(layer.shape.groups for layer in self.layers)

    @property
    def placement(self) -> Placement:
        """Return where the weights are."""
        return self.work[0].placement

    @property
    def owner(self) -> int:
        """Return the process that projects them."""
        return self.work[0].owner

    @property
    def here(self) -> bool:
        """Whether this process projects them."""
        return self.work[0].here

    @property
    def speaks(self) -> bool:
        """Whether this process says for all others what came of them."""
        return self.work[0].speaks

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the layers."""
        return tuple(layer.name for layer in self.layers)

    @property
    def is_narrow(self) -> bool:
        """Whether finite float32 numbers may be Inf in the weights' dtype, as in float16; bfloat16 has float32's range."""
        return torch.finfo(self.layers[0].weight.dtype).max < 1e30

    def beyond_range(self, matrices: Tensor) -> list[str]:
        """Return the names of the layers whose matrices, in a stack of the weights' dtype, are not finite."""
        finite = matrices.isfinite().view(len(self.layers), -1).all(-1).tolist()
        return [name for name, ok in zip(self.names, finite, strict=True) if not ok]

    def matrices(self, held: Mapping[str, MatrixLayer]) -> Tensor:
        """Return the weights of all layers and groups together, shape (batch, rows, columns), in float32 or float64.

        `held` is {name: layer} of those that hold a whole weight in place of the network's.
        """
        matrices = _together([layer.matrices() for layer in self._held(held)])
        return matrices.to(torch.promote_types(matrices.dtype, torch.float32))

    def gather(self, held: Mapping[str, MatrixLayer]) -> Gathered:
        """Put the weights of all layers and groups together, with their batch norms' scale and their energy."""
        single, layers = self.matrices(held), self._held(held)
        scales = [scale for layer in layers if (scale := layer.row_scale()) is not None]
        scale = _together(scales) if scales else None
        rows = torch.linalg.vector_norm(single, dim=-1)
        energy = (rows if scale is None else rows * scale).square().sum(-1)
        finite = energy.isfinite() & rows.isfinite().all(-1)
        if scale is not None:  # an infinite or negative variance can make a finite scale
            finite &= sound_variance(_together([_variances(layer) for layer in layers])).all(-1)
        return Gathered(self, single, scale, energy, finite.view(len(self.layers), -1).all(-1))

    def write_(self, matrices: Tensor, held: Mapping[str, MatrixLayer]) -> None:
        """Set the weights, unless `matrices`, which have their dtype, are views of them."""
        for layer, own in zip(self._held(held), matrices.chunk(len(self.layers)), strict=True):
            layer.write_(own)

    def _held(self, held: Mapping[str, MatrixLayer]) -> list[MatrixLayer]:
        return [held.get(layer.name, layer) for layer in self.layers]


@dataclass
class Gathered:
    """What one projection needs to know of a stack, put together once."""

    stack: Stack
    matrices: Tensor
    """W, shape (batch, rows, columns), in float32 or float64; for a single layer a view of its weight where it can be."""
    row_scale: Tensor | None
    """α, shape (batch, rows), which folds the batch norms in."""
    energy: Tensor
    """E of (E1), with α folded in, shape (batch,)."""
    finite: Tensor
    """Whether each layer's weight and batch norm are finite, and no variance is negative, shape (layers,)."""
    subspace: Subspace | None = None
    """The leading subspace, once it is found."""
    moment: Tensor | None = None
    """E[y·yᵀ] of the outputs, shape (batch, rows, rows), where these are the metric."""

    @property
    def inner(self) -> int:
        """Return the inner size of the product that a projection adds: the rank, or that of the complement."""
        return self.stack.rank if self.subspace is None else self.subspace.left.shape[-1]


def check_finite(gathered: Sequence[Gathered], layers: Iterable[str], *, step: int) -> None:
    """Raise ValueError naming those of the layers that hold NaN or Inf."""
    if not gathered:
        return
    device = gathered[0].finite.device
    finite = torch.cat([each.finite.to(device) for each in gathered]).tolist()  # read from the device once
    names = [name for each in gathered for name in each.stack.names]
    bad = {name for name, ok in zip(names, finite, strict=True) if not ok}
    if bad:
        named = ", ".join(name for name in layers if name in bad)
        raise ValueError(
            f"NaN or Inf in the weights or batch norm of {named} at step {step}, or in their squares, or a negative variance: "
            "nothing was projected. Training has diverged: lower the learning rate, or go back to the last checkpoint."
        )


def stacked(work: Iterable[Assigned], ranks: Mapping[str, int]) -> list[Stack]:
    """Return layers in stacks."""
    together: dict[Any, list[Assigned]] = defaultdict(list)
    for each in work:
        layer, weight = each.layer, each.layer.weight
        small = min(layer.shape.rows // layer.shape.groups, layer.shape.columns) <= STACKED_UP_TO or weight.is_cuda
        alike = (
            (layer.shape, ranks[layer.name], layer.batch_norm is None, weight.dtype, weight.device),
            (each.placement, each.owner),
        )
        together[alike if small else layer.name].append(each)
    stacks = []
    for some in together.values():
        most = max(1, STACK_ELEMENTS // some[0].layer.weight.numel())
        for i in range(0, len(some), most):
            part = tuple(some[i : i + most])
            stacks.append(Stack(part, ranks[part[0].layer.name]))
    return stacks


def owners(layers: Iterable[MatrixLayer]) -> list[MatrixLayer]:
    """Return the first layer of those that share a weight, for every weight."""
    first: dict[int, MatrixLayer] = {}
    for layer in layers:
        first.setdefault(id(layer.weight), layer)
    return list(first.values())


def _together(tensors: list[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


def _variances(layer: MatrixLayer) -> Tensor:
    variance = getattr(layer.batch_norm, "running_var", None)
    assert isinstance(variance, Tensor)
    return layer.rows(variance)
