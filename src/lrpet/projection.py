"""The algorithm: projection onto the matrices of rank r, with energy transfer and batch-norm rectification.

Energy is the sum of squared singular values, E = Σσᵢ² = ‖W‖²_F. With V_r the leading right singular vectors of W,

    projection           P = W·V_r·V_rᵀ                                   (Eckart–Young: the nearest matrix of rank r)
    energy transfer      g = √((E − ρ²·E_tail) / E_r),  W ← g·P + ρ·(W − P)      (‖W‖_F is unchanged)
    rectification        V_r is taken from diag(α)·W, and so are E, E_r and E_tail.

Rectification wants the best rank-r approximation of the folded matrix M = diag(α)·W, undone afterwards. The projection of M
is M·V_r·V_rᵀ = diag(α)·(W·V_r·V_rᵀ), so that projecting the rows of W onto the same V_r undoes the scaling exactly, for every
α, zero and negative ones included, and without a division. The paper divides by α in the damped form α/(α² + 1e-5): the two
agree where α² ≫ 1e-5, and ours also leaves a matrix that already has rank r as it is.

Source: Guo, Lin, Chen, Xing, Liu, Xu: Compact Model Training by Low-Rank Projection with Energy Transfer,
IEEE TNNLS 2024, arXiv 2204.05566.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lrpet.subspace import leading

#: A layer whose largest (folded) singular value is below this is dead, and left alone.
DEAD_BELOW = 1e-4


class Projection(NamedTuple):
    """A projected matrix and what happened to its energy (of the folded matrix, under rectification)."""

    matrix: Tensor
    """Shape (rows, columns), dtype of the argument: the new weight; the old one if the layer is dead."""
    energy: Tensor
    """E before, a float scalar tensor."""
    kept: Tensor
    """E_r, the part of E in the r largest singular values."""
    energy_after: Tensor
    """Energy of the new matrix: E with energy transfer, E_r + ρ²·E_tail without."""
    dead: Tensor
    """Bool scalar tensor: whether σ₁ < 1e-4."""


def transfer_scale(energy: Tensor, kept: Tensor, *, tail_scale: float = 0.0) -> Tensor:
    """g = √((E − ρ²·E_tail) / E_r), with E_tail = E − E_r: the factor of the kept singular values that conserves energy."""
    return torch.sqrt((energy - tail_scale**2 * (energy - kept)) / kept)


@torch.no_grad()
def project(
    matrix: Tensor,
    rank: int,
    *,
    row_scale: Tensor | None = None,
    energy_transfer: bool = True,
    tail_scale: float = 0.0,
) -> Projection:
    """Project `matrix`, shape (rows, columns), onto the matrices of rank `rank`.

    Args:
        matrix: Finite, floating point; half precisions are computed in float32. Unchanged.
        rank: From 1 to min(rows, columns).
        row_scale: α, shape (rows,): rectify, i.e. find the subspace of diag(α)·matrix.
        energy_transfer: Hand the pruned energy to the kept singular values.
        tail_scale: ρ in [0, 1]: what pruned singular values are multiplied by. Above 0 the result is not of rank `rank`.
    """
    weight = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
    folded = weight if row_scale is None else row_scale.to(weight.dtype)[:, None] * weight
    with torch.autocast(matrix.device.type, enabled=False):  # a loop may step inside an autocast region
        subspace = leading(folded, rank)
        coordinates = folded @ subspace.basis  # (rows, r): M·V_r, whose energy is E_r
        energy, kept = folded.square().sum(), coordinates.square().sum()
        if row_scale is not None:
            coordinates = weight @ subspace.basis
        projected = coordinates @ subspace.basis.mT

    scale = transfer_scale(energy, kept, tail_scale=tail_scale) if energy_transfer else torch.ones_like(energy)
    new = scale * projected + tail_scale * (weight - projected) if tail_scale else scale * projected
    dead = subspace.largest < DEAD_BELOW
    after = scale.square() * kept + tail_scale**2 * (energy - kept)
    return Projection(
        matrix=torch.where(dead, weight, new).to(matrix.dtype),
        energy=energy,
        kept=kept,
        energy_after=torch.where(dead, energy, after),
        dead=dead,
    )
