"""The leading subspace from a full singular value decomposition in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from lrpet.projecting.matrices import inverse_or_zero, is_wide, scaled_rows
from lrpet.projecting.subspace import Subspace


def from_svd(weight: Tensor, rank: int, row_scale: Tensor | None) -> Subspace:
    """Find the subspace in U or V of diag(α)·W = U·Σ·Vᵀ; the arguments are those of `leading`."""
    folded = scaled_rows(weight, row_scale)
    left, values, right = torch.linalg.svd(folded.double(), full_matrices=False)
    wide = is_wide(weight)
    basis = (left[..., :rank] if wide else right[..., :rank, :].mT).to(weight.dtype)
    unscaled = basis
    if wide and row_scale is not None:  # diag(α)⁻¹·U_r = W·V_r·Σ_r⁻¹, without dividing by α
        inverted = inverse_or_zero(values[..., :rank], values[..., :1])
        unscaled = ((weight.double() @ right[..., :rank, :].mT) * inverted[..., None, :]).to(weight.dtype)
    return Subspace(
        wide=wide,
        left=unscaled,
        right=scaled_rows(basis, row_scale) if wide else basis,
        complement=False,
        basis=basis,
        largest=values[..., 0].to(weight.dtype),
        error=torch.zeros_like(values[..., 0], dtype=weight.dtype),
        solver="svd",
    )
