"""The energies of layers' singular values, as trained weights have them."""

from __future__ import annotations

import torch
from torch import Tensor

from lrpet.layers.matrix import MatrixLayer


def energies(layer: MatrixLayer) -> Tensor:
    """Return the squared singular values of the weight with its batch norm folded in, shape (groups, full rank).

    They are float64 and descend. Raises ValueError if the weight or the batch norm holds NaN or Inf.
    """
    matrices = layer.folded(torch.float64)
    gram = matrices @ matrices.mT if matrices.shape[1] <= matrices.shape[2] else matrices.mT @ matrices
    if not bool(gram.isfinite().all()):
        raise ValueError(
            f"NaN or Inf in the weight or batch norm of {layer.name!r}, or in their squares, so that it has no energy: "
            "if it was being trained, training has diverged"
        )
    values: Tensor = torch.linalg.eigvalsh(gram).flip(-1).clamp_min(0)
    return values


def kept_energy(layer: MatrixLayer) -> list[float]:
    """Return the fraction of the energy, over all groups, that is kept at each rank from 1 up."""
    values = energies(layer).sum(0)
    total = values.sum()
    return (values.cumsum(0) / total.clamp_min(torch.finfo(total.dtype).tiny)).tolist()
