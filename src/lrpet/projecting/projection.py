"""The algorithm: every equation of low-rank projection with energy transfer.

For a weight matrix W with singular values σ₁ ≥ σ₂ ≥ … and right singular vectors V = (v₁, v₂, …), projected to rank r with
the tail scaled by ρ (0 for plain truncation):

    (E1)  energy            E = Σσᵢ² = ‖W‖²_F;  E_r = Σ_{i≤r} σᵢ² is the kept part, E_tail = E − E_r the pruned part
    (E2)  projection        P = W·V_r·V_rᵀ,  the nearest matrix of rank r (Eckart and Young)
    (E3)  gain              g = √((E − ρ²·E_tail) / E_r),  or 1 without energy transfer
    (E4)  energy transfer   W ← g·P + ρ·(W − P),  which leaves ‖W‖_F unchanged
    (E5)  rectification     V_r, E, E_r and E_tail are those of M = diag(α)·W;  αᵢ = γᵢ/√(varᵢ + ε) of the next batch norm

The labels are lrpet's own; the names are the paper's: "low-rank projection", "energy transfer", "BN rectification".

On (E5): at inference the batch norm folds into W, so the best approximation of M is wanted. It is
M·V_r·V_rᵀ = diag(α)·(W·V_r·V_rᵀ): projecting the rows of W onto the V_r of M undoes the scaling exactly. This holds for every
α, zero and negative ones included, and nothing is divided. The paper projects M and multiplies row i by αᵢ/(αᵢ² + 1e-5)
instead. Both agree where α² ≫ 1e-5. (E5) also leaves a matrix of rank r as it is, if at least r of the αᵢ are not zero.

Source: Guo, Lin, Chen, Xing, Liu, Xu: Compact Model Training by Low-Rank Projection with Energy Transfer,
IEEE TNNLS 2024, arXiv 2204.05566.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lrpet.projecting.matrices import energies, full_precision
from lrpet.projecting.solvers import leading
from lrpet.projecting.subspace import Subspace

#: A layer whose largest (folded) singular value is below this is dead, and left alone.
DEAD_BELOW = 1e-4


class Projection(NamedTuple):
    """A projected matrix and what happened to its energy; under rectification, the energy of the folded matrix M.

    The fields of a projected stack have a leading dimension `batch`.
    """

    matrix: Tensor
    """The new weight, or the old one of a dead layer; shape (rows, columns), with the dtype of the argument."""
    energy: Tensor
    """E of (E1) before, a float scalar tensor."""
    kept: Tensor
    """E_r of (E1), the part of E in the r largest singular values."""
    energy_after: Tensor
    """The energy of the new matrix: E with energy transfer, E_r + ρ²·E_tail without."""
    dead: Tensor
    """Whether σ₁ is below 1e-4, a bool scalar tensor."""


def transfer_gain(energy: Tensor, kept: Tensor, *, tail_scale: float = 0.0) -> Tensor:
    """Compute g of (E3), by which the kept singular values are multiplied to conserve the energy.

    Args:
        energy: E, any shape.
        kept: E_r, with the shape of `energy`.
        tail_scale: ρ.
    """
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
    """Project a matrix to rank `rank` and hand its pruned energy to what is kept: (E1) to (E5).

    Args:
        matrix: W, shape (rows, columns), or a stack of shape (batch, rows, columns). It is finite and of floating point; half
            precisions are computed in float32. It stays as it is, unless it is also `out`.
        rank: r, from 1 to min(rows, columns).
        row_scale: α of (E5), shape (rows,) or (batch, rows). Without it nothing is rectified.
        energy_transfer: Whether the kept singular values take the pruned energy over; else g is 1.
        tail_scale: ρ in [0, 1], the factor of the pruned singular values. Above 0 the result has a higher rank than `rank`.
        subspace: What `lrpet.projecting.solvers.leading` found for the stack, if it was called already.
        energy: E of (E1), shape (batch,), if it is known already.
        out: Where the result of a stack may be written, to save a copy; it need not be. `matrix` itself will do.

    Raises:
        torch.linalg.LinAlgError: No `subspace` was given and finding it did not converge.
    """
    weight = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
    stack = weight if matrix.dim() == 3 else weight[None]
    if row_scale is not None:
        row_scale = row_scale.to(weight.dtype).view(stack.shape[:2])
    with full_precision(matrix.device):
        if energy is None:
            energy = energies(stack, row_scale)  # E of (E1), (E5)
        if subspace is None:
            subspace = leading(stack, rank, row_scale=row_scale, energy=energy)  # V_r of (E2), (E5)
        coordinates = subspace.coordinates(stack)
        kept = subspace.kept_energy(coordinates, energy, row_scale)  # E_r of (E1), (E5)
        gain = (
            transfer_gain(energy, kept, tail_scale=tail_scale) if energy_transfer else torch.ones_like(energy)
        )  # (E3)
        dead = subspace.largest < DEAD_BELOW
        restored = dead.is_cuda or bool(dead.any())  # on a GPU, looking would make the host wait
        direct = out if out is not None and out.dtype == stack.dtype and not restored else None
        new = subspace.rescaled(stack, coordinates, kept=gain, pruned=tail_scale, out=direct)  # (E2), (E4)
    if restored:
        new = torch.where(dead[:, None, None], stack, new)
    after = torch.where(dead, energy, gain.square() * kept + tail_scale**2 * (energy - kept))
    result = Projection(new.to(matrix.dtype), energy, kept, after, dead)
    return result if matrix.dim() == 3 else Projection(*(field[0] for field in result))
