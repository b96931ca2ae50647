"""Layers that are projected together: their weights as one batch of matrices."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lrpet.layers.matrix import MatrixLayer
from lrpet.projecting.subspace import Subspace

#: On a CPU, layers whose smaller side is at most this are solved together; larger ones keep its cores busy by themselves.
STACKED_UP_TO = 128
#: The most numbers in one stack.
STACK_ELEMENTS = 2**24


@dataclass(frozen=True)
class Stack:
    """Layers equal in all that matters to a solver: shape, rank, type, device, and whether a batch norm is folded in."""

    layers: tuple[MatrixLayer, ...]
    rank: int
    """The rank that every matrix is projected to."""

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the layers."""
        return tuple(layer.name for layer in self.layers)

    def gather(self) -> Gathered:
        """Put the weights of all layers and groups together, with their batch norms' scale and their energy."""
        matrices = _together([layer.matrices() for layer in self.layers])
        single = matrices.to(torch.promote_types(matrices.dtype, torch.float32))
        scales = [scale for layer in self.layers if (scale := layer.row_scale()) is not None]
        scale = _together(scales) if scales else None
        rows = torch.linalg.vector_norm(single, dim=-1)
        energy = (rows if scale is None else rows * scale).square().sum(-1)
        finite = energy.isfinite() & rows.isfinite().all(-1)
        if scale is not None:  # an infinite variance makes a finite scale, 0
            finite &= _together([_variances(layer) for layer in self.layers]).isfinite().all(-1)
        return Gathered(self, single, scale, energy, finite.view(len(self.layers), -1).all(-1))

    def write_(self, matrices: Tensor) -> None:
        """Set the weights, unless `matrices` are views of them."""
        for layer, own in zip(self.layers, matrices.chunk(len(self.layers)), strict=True):
            layer.write_(own)


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
    """Whether each layer's weight and batch norm are finite, shape (layers,)."""
    subspace: Subspace | None = None
    """The leading subspace, once it is found."""


def stacked(layers: Iterable[MatrixLayer], ranks: Mapping[str, int]) -> list[Stack]:
    """Return all layers in stacks; where layers share a weight, only the first."""
    together: dict[Any, list[MatrixLayer]] = defaultdict(list)
    for layer in owners(layers):
        weight, shape = layer.weight, layer.matrices().shape
        small = min(shape[1:]) <= STACKED_UP_TO or weight.is_cuda
        alike = (shape, ranks[layer.name], layer.batch_norm is None, weight.dtype, weight.device)
        together[alike if small else layer.name].append(layer)
    stacks = []
    for alike_layers in together.values():
        most = max(1, STACK_ELEMENTS // alike_layers[0].weight.numel())
        for i in range(0, len(alike_layers), most):
            part = tuple(alike_layers[i : i + most])
            stacks.append(Stack(part, ranks[part[0].name]))
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
