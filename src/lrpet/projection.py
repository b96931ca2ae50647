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

from lrpet.subspace import Subspace, full_precision, leading

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
) -> Projection:
    """Project `matrix`, shape (rows, columns), onto the matrices of rank `rank`; or each of a stack (batch, rows, columns).

    Args:
        matrix: Finite, floating point; half precisions are computed in float32. Unchanged.
        rank: From 1 to min(rows, columns).
        row_scale: α, shape (rows,), or (batch, rows): rectify, i.e. find the subspace of diag(α)·matrix.
        energy_transfer: Hand the pruned energy to the kept singular values.
        tail_scale: ρ in [0, 1]: what pruned singular values are multiplied by. Above 0 the result is not of rank `rank`.
        subspace: What `lrpet.subspace.leading` found for the stack, if it was asked already.
    """
    weight = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
    stack = weight if matrix.dim() == 3 else weight[None]
    if row_scale is not None:
        row_scale = row_scale.to(weight.dtype).view(stack.shape[:2])
    with full_precision(matrix.device):
        subspace = subspace or leading(stack, rank, row_scale=row_scale)
        new = subspace.project(stack)

    energy, kept = _energy(stack, row_scale), _energy(new, row_scale)
    scale = transfer_scale(energy, kept, tail_scale=tail_scale) if energy_transfer else torch.ones_like(energy)
    after = scale.square() * kept + tail_scale**2 * (energy - kept)
    if tail_scale:
        new = scale[:, None, None] * new + tail_scale * (stack - new)
    else:
        new *= scale[:, None, None]
    dead = subspace.largest < DEAD_BELOW
    if dead.is_cuda or dead.any():  # on a GPU, looking would make the host wait
        new = torch.where(dead[:, None, None], stack, new)
    result = Projection(new.to(matrix.dtype), energy, kept, torch.where(dead, energy, after), dead)
    return result if matrix.dim() == 3 else Projection(*(field[0] for field in result))


def _energy(stack: Tensor, row_scale: Tensor | None) -> Tensor:
    """‖diag(α)·W‖²_F of each matrix of a stack, shape (batch,)."""
    rows = torch.linalg.vector_norm(stack, dim=-1)
    scaled: Tensor = rows if row_scale is None else rows * row_scale
    return scaled.square().sum(-1)
