"""The subspace that a projection keeps, and what it makes of a matrix."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lrpet.projecting.matrices import energies


@dataclass(frozen=True, kw_only=True, eq=False)
class Subspace:
    """The leading singular subspaces of a stack of folded matrices M = diag(α)·W, as `lrpet.projecting.solvers` find them.

    The leading left singular vectors span it for wide matrices (rows ≤ columns), the leading right ones for tall matrices.
    These vectors have s = min(rows, columns) entries. Without rectification α is 1 and M is W. Projections are of W itself,
    so that α need not be undone.
    """

    wide: bool
    """Whether the matrices have at most as many rows as columns."""
    left: Tensor
    """The projection of a wide W is left·(rightᵀ·W); shape (batch, s, rank), or (batch, s, s − rank) of a complement."""
    right: Tensor
    """The projection of a tall W is (W·left)·rightᵀ; the shape is that of `left`."""
    complement: bool
    """Whether `left` and `right` project onto the pruned part W − P instead of the kept part P: it may be the smaller one."""
    basis: Tensor
    """B, shape (batch, s, rank): orthonormal columns that span the kept subspace of M; the next warm start."""
    largest: Tensor
    """σ₁ of M, shape (batch,)."""
    error: Tensor
    """Estimated relative error of the projected matrix, shape (batch,); Inf or NaN where the result is of no use."""
    solver: str
    """Which solver found it: "svd", "eigh" or "warm"."""

    def coordinates(self, weight: Tensor) -> Tensor:
        """Compute the coordinates of W in the subspace, or in its complement where that is held instead.

        The shape is (batch, rank, columns) for wide matrices and (batch, rows, rank) for tall ones, with s − rank in place of
        rank for a complement.
        """
        return self.right.mT @ weight if self.wide else weight @ self.left

    def kept_energy(self, coordinates: Tensor, energy: Tensor, row_scale: Tensor | None) -> Tensor:
        """Compute E_r of (E1), shape (batch,): the energy of M in the kept subspace.

        B is orthonormal, so that E_r is ‖Bᵀ·M‖²_F for a wide matrix and ‖M·B‖²_F for a tall one.

        Args:
            coordinates: What `coordinates` gives for W.
            energy: E of (E1), shape (batch,).
            row_scale: α, shape (batch, rows), or None.
        """
        inside = energies(coordinates, None if self.wide else row_scale)
        return energy - inside if self.complement else inside

    def rescaled(
        self, weight: Tensor, coordinates: Tensor, *, kept: Tensor, pruned: float, out: Tensor | None = None
    ) -> Tensor:
        """Compute kept·P + pruned·(W − P), the right side of (E4), shape (batch, rows, columns).

        Of the three ways to arrange this sum, the one with the fewest products is taken.

        Args:
            weight: W, shape (batch, rows, columns).
            coordinates: What `coordinates` gives for W.
            kept: g, shape (batch,): the factor of the kept part P.
            pruned: ρ, the factor of the pruned part W − P.
            out: Where the result may be written; it need not be. The memory of `weight` will do.
        """
        if self.complement:  # the coordinates are those of W − P:  g·W − (g − ρ)·(W − P)
            return kept[:, None, None] * weight - self._rebuilt(coordinates, kept - pruned)
        if pruned:  # (g − ρ)·P + ρ·W
            return self._rebuilt(coordinates, kept - pruned) + pruned * weight
        return self._rebuilt(coordinates, kept, out=out)  # g·P

    def project(self, weight: Tensor) -> Tensor:
        """Compute P of (E2), shape (batch, rows, columns): under rectification, that of (E5)."""
        return self.rescaled(weight, self.coordinates(weight), kept=torch.ones_like(self.largest), pruned=0.0)

    def _rebuilt(self, coordinates: Tensor, scale: Tensor, *, out: Tensor | None = None) -> Tensor:
        """Compute the part of W that has these coordinates, times `scale` of shape (batch,)."""
        scale = scale[:, None, None]
        if self.wide:
            return torch.bmm(scale * self.left, coordinates, out=out)
        return torch.bmm(coordinates, (scale * self.right).mT, out=out)
