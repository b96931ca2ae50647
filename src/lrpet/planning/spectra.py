"""The energies of layers' singular values, as trained weights have them."""

from __future__ import annotations

import torch
from torch import Tensor

from lrpet.layers.matrix import MatrixLayer
from lrpet.layers.sound import check_layer, magnitude


def energies(layer: MatrixLayer, *, relative: bool = False) -> Tensor:
    """Return the squared singular values of the weight with its batch norm folded in, shape (groups, full rank).

    With `relative`, all are divided by one number that the entries alone decide, so that no square is too large or too small.
    They are float64 and descend. Raises ValueError if the weight or the batch norm holds NaN or Inf, or a negative variance.
    """
    check_layer(layer)
    matrices = layer.folded(torch.float64)
    if relative:
        matrices = matrices / magnitude(matrices)
    values = squared_singular_values(matrices)
    if values is None:
        raise ValueError(
            f"the weight of {layer.name!r} is so large that its squares are not finite in float64: it has no energy"
        )
    return values


def squared_singular_values(matrices: Tensor) -> Tensor | None:
    """Return the squared singular values, shape (groups, full rank), descending; None if one of them is not finite.

    Args:
        matrices: Shape (groups, rows, columns), in float64 for values that are small beside the largest.
    """
    gram = matrices @ matrices.mT if matrices.shape[1] <= matrices.shape[2] else matrices.mT @ matrices
    if not bool(gram.isfinite().all()):
        return None
    values: Tensor = torch.linalg.eigvalsh(gram).flip(-1).clamp_min(0)
    return values


def kept_energy(layer: MatrixLayer) -> list[float]:
    """Return the fraction of the energy, over all groups, that is kept at each rank from 1 up."""
    values = energies(layer, relative=True).sum(0)
    total = values.sum()
    return (values.cumsum(0) / total.clamp_min(torch.finfo(total.dtype).tiny)).tolist()
