"""The algorithm: projection onto the matrices of rank r, with energy transfer and batch-norm rectification.

Energy is the sum of squared singular values, E = Σσᵢ² = ‖W‖²_F. With V_r the leading right singular vectors of W,

    projection           P = W·V_r·V_rᵀ                                   (Eckart–Young: the nearest matrix of rank r)
    energy transfer      g = √((E − ρ²·E_tail) / E_r),  W ← g·P + ρ·(W − P)      (‖W‖_F is unchanged)
    rectification        V_r is taken from diag(α)·W, and so are E, E_r and E_tail.

Rectification wants the best rank-r approximation of the folded matrix M = diag(α)·W, undone afterwards. The projection of M
is M·V_r·V_rᵀ = diag(α)·(W·V_r·V_rᵀ), so that projecting the rows of W onto the same V_r undoes the scaling exactly, for every
α, zero and negative ones included, and without a division. The paper divides by α in the damped form α/(α² + 1e-5): the two
agree where α² ≫ 1e-5, and ours also leaves a matrix that already has rank r as it is, if at least r of the αᵢ are not zero.

Source: Guo, Lin, Chen, Xing, Liu, Xu: Compact Model Training by Low-Rank Projection with Energy Transfer,
IEEE TNNLS 2024, arXiv 2204.05566.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lrpet.projecting.subspace import Subspace, full_precision, leading, squared_norm

#: A layer whose largest (folded) singular value is below this is dead, and left alone.
DEAD_BELOW = 1e-4


class Projection(NamedTuple):
    """A projected matrix and what happened to its energy (of the folded matrix, under rectification).

    Of a stack of matrices, every field has a leading dimension `batch`.
    """

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
    subspace: Subspace | None = None,
    energy: Tensor | None = None,
    out: Tensor | None = None,
) -> Projection:
    """Project `matrix`, shape (rows, columns), onto the matrices of rank `rank`; or each of a stack (batch, rows, columns).

    Args:
        matrix: Finite, floating point; half precisions are computed in float32. Unchanged.
        rank: From 1 to min(rows, columns).
        row_scale: α, shape (rows,), or (batch, rows): rectify, i.e. find the subspace of diag(α)·matrix.
        energy_transfer: Hand the pruned energy to the kept singular values.
        tail_scale: ρ in [0, 1]: what pruned singular values are multiplied by. Above 0 the result is not of rank `rank`.
        subspace: What `lrpet.projecting.subspace.leading` found for the stack, if it was asked already.
        energy: E, if it is known already.
        out: Like the stack: where the result may be written, to save a copy; it need not be. `matrix` itself will do.
    """
    weight = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
    stack = weight if matrix.dim() == 3 else weight[None]
    if row_scale is not None:
        row_scale = row_scale.to(weight.dtype).view(stack.shape[:2])
    wide = stack.shape[-2] <= stack.shape[-1]
    with full_precision(matrix.device):
        energy = squared_norm(stack, row_scale) if energy is None else energy
        subspace = subspace or leading(stack, rank, row_scale=row_scale, energy=energy)
        coordinates = subspace.coordinates(stack)
        inside = squared_norm(coordinates, None if wide else row_scale)  # ‖BᵀM‖² or ‖MB‖², B orthonormal
        kept = energy - inside if subspace.complement else inside
        scale = transfer_scale(energy, kept, tail_scale=tail_scale) if energy_transfer else torch.ones_like(energy)
        dead = subspace.largest < DEAD_BELOW
        spared = dead.is_cuda or bool(dead.any())  # on a GPU, looking would make the host wait
        direct = out is not None and out.dtype == stack.dtype and not spared
        if subspace.complement:  # g·P + ρ·(W − P) = g·W − (g − ρ)·(W − P)
            new = scale[:, None, None] * stack - subspace.rebuilt(coordinates, scale - tail_scale, wide=wide)
        elif tail_scale:
            new = subspace.rebuilt(coordinates, scale - tail_scale, wide=wide) + tail_scale * stack
        else:
            new = subspace.rebuilt(coordinates, scale, wide=wide, out=out if direct else None)
    if spared:
        new = torch.where(dead[:, None, None], stack, new)
    after = torch.where(dead, energy, scale.square() * kept + tail_scale**2 * (energy - kept))
    result = Projection(new.to(matrix.dtype), energy, kept, after, dead)
    return result if matrix.dim() == 3 else Projection(*(field[0] for field in result))
