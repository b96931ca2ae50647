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


class Energies(NamedTuple):
    """What happens to the energies of a stack; the fields are those of `Projection`, shape (batch,)."""

    energy: Tensor
    kept: Tensor
    energy_after: Tensor
    dead: Tensor


class Transfer(NamedTuple):
    """What (E4) makes of a stack of weights: W ← o·W + L·R.

    o is 0 where the tail is pruned, ρ where it is scaled, g where L·R is cheaper to prune than to keep, and 1 for a dead
    layer.
    """

    own: Tensor
    """o, shape (batch,)."""
    left: Tensor
    """L, shape (batch, rows, k)."""
    right: Tensor
    """R, shape (batch, k, columns)."""

    def applied(self, weight: Tensor, *, out: Tensor | None = None) -> Tensor:
        """Compute the new weights, shape (batch, rows, columns); `out` is where they may be written, `weight` will do."""
        stays = self.own.is_cuda or bool(self.own.any())  # on a GPU, looking would make the host wait
        with full_precision(weight.device):
            new = torch.bmm(self.left, self.right, out=None if stays else out)
        return new.addcmul_(self.own[:, None, None], weight) if stays else new


@torch.no_grad()
def transfer(
    stack: Tensor,
    subspace: Subspace,
    *,
    row_scale: Tensor | None = None,
    energy: Tensor,
    energy_transfer: bool = True,
    tail_scale: float = 0.0,
) -> tuple[Transfer, Energies]:
    """Find what (E4) makes of a stack of weights, without changing it.

    Args:
        stack: W, shape (batch, rows, columns), in float32 or float64.
        subspace: What `lrpet.projecting.solvers.leading` found for it.
        row_scale: α of (E5), shape (batch, rows).
        energy: E of (E1), shape (batch,).
        energy_transfer: Whether the kept singular values take the pruned energy over; else g is 1.
        tail_scale: ρ.
    """
    with full_precision(stack.device):
        coordinates = subspace.coordinates(stack)
        kept = subspace.kept_energy(coordinates, energy, row_scale)  # E_r of (E1), (E5)
        one = torch.ones_like(energy)
        gain = transfer_gain(energy, kept, tail_scale=tail_scale) if energy_transfer else one  # (E3)
        dead = subspace.largest < DEAD_BELOW
        gain = torch.where(dead, tail_scale, gain)  # L·R is (g − ρ)·P, so that it is 0
        own, left, right = subspace.transferred(coordinates, kept=gain, pruned=tail_scale)  # (E2), (E4)
    own = torch.where(dead, one, own)
    after = torch.where(dead, energy, gain.square() * kept + tail_scale**2 * (energy - kept))
    return Transfer(own, left, right), Energies(energy, kept, after, dead)


@torch.no_grad()
def project(
    matrix: Tensor,
    rank: int,
    *,
    row_scale: Tensor | None = None,
    energy_transfer: bool = True,
    tail_scale: float = 0.0,
) -> Projection:
    """Project a matrix to rank `rank` and hand its pruned energy to what is kept: (E1) to (E5).

    Args:
        matrix: W, shape (rows, columns), or a stack of shape (batch, rows, columns). It stays as it is; half precisions are
            computed in float32.
        rank: r, from 1 to min(rows, columns).
        row_scale: α of (E5), shape (rows,) or (batch, rows). Without it nothing is rectified.
        energy_transfer: Whether the kept singular values take the pruned energy over; else g is 1.
        tail_scale: ρ in [0, 1], the factor of the pruned singular values. Above 0 the result has a higher rank than `rank`.

    Raises:
        ValueError: `matrix` is not of floating point or not finite, or `rank` is out of range.
        torch.linalg.LinAlgError: Finding the leading subspace did not converge.
    """
    if not (matrix.is_floating_point() and bool(matrix.isfinite().all())):
        raise ValueError(f"a matrix to project must be of floating point and finite; got {matrix.dtype}, or NaN or Inf")
    if not 1 <= rank <= min(matrix.shape[-2:]):
        raise ValueError(f"rank={rank} must be from 1 to {min(matrix.shape[-2:])}, the smaller side of the matrix")
    weight = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
    stack = weight if matrix.dim() == 3 else weight[None]
    if row_scale is not None:
        row_scale = row_scale.to(weight.dtype).view(stack.shape[:2])
    with full_precision(matrix.device):
        energy = energies(stack, row_scale)  # E of (E1), (E5)
        subspace = leading(stack, rank, row_scale=row_scale, energy=energy)  # V_r of (E2), (E5)
    found, numbers = transfer(
        stack, subspace, row_scale=row_scale, energy=energy, energy_transfer=energy_transfer, tail_scale=tail_scale
    )
    result = Projection(found.applied(stack).to(matrix.dtype), *numbers)
    return result if matrix.dim() == 3 else Projection(*(field[0] for field in result))
