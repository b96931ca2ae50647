"""Layers and modules that hold other tensors than the network's, and share everything else with it."""

from __future__ import annotations

import copy
from collections.abc import Mapping

from torch import Tensor, nn

from lrpet.layers.matrix import MatrixLayer


def holding(layer: MatrixLayer, weight: Tensor | None, batch_norm: nn.Module | None) -> MatrixLayer:
    """Return a layer with this weight and this batch norm in place of its own; None leaves its own."""
    if weight is None and batch_norm is None:
        return layer
    other = copy.copy(layer)
    if weight is not None:
        other.module = with_tensors(layer.module, {layer.parameter: weight})
    if batch_norm is not None:
        other.batch_norm = batch_norm
    return other


def with_tensors(module: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Return a module that has these parameters and buffers in place of its own; `module` stays as it is.

    Nothing is called to make it: classes that `fully_shard` made refuse copies.
    """
    other: nn.Module = object.__new__(type(module))
    other.__dict__.update(vars(module))
    for kind in ("_parameters", "_buffers"):
        own = vars(module)[kind]
        other.__dict__[kind] = {**own, **{name: tensor for name, tensor in tensors.items() if name in own}}
    return other
