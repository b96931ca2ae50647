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

    def factors(self, coordinates: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Return two factors whose product is the part of W that has these coordinates, times `scale` of shape (batch,).

        The shapes are (batch, rows, k) and (batch, k, columns); k is the rank, or s − rank for a complement.
        """
        scale = scale[:, None, None]
        return (scale * self.left, coordinates) if self.wide else (coordinates, (scale * self.right).mT)

    def transferred(self, coordinates: Tensor, *, kept: Tensor, pruned: float) -> tuple[Tensor, Tensor, Tensor]:
        """Return o, L and R with o·W + L·R = kept·P + pruned·(W − P), the right side of (E4).

        Of the ways to arrange this sum, the one with the fewest products is taken.

        Args:
            coordinates: What `coordinates` gives for W.
            kept: g, shape (batch,): the factor of the kept part P.
            pruned: ρ, the factor of the pruned part W − P.

        Returns:
            o, shape (batch,), and the two factors, shapes (batch, rows, k) and (batch, k, columns).
        """
        if self.complement:  # the coordinates are those of W − P:  g·W − (g − ρ)·(W − P)
            return kept, *self.factors(coordinates, pruned - kept)
        return torch.full_like(kept, pruned), *self.factors(coordinates, kept - pruned)  # ρ·W + (g − ρ)·P

    def project(self, weight: Tensor) -> Tensor:
        """Compute P of (E2), shape (batch, rows, columns): under rectification, that of (E5)."""
        own, left, right = self.transferred(self.coordinates(weight), kept=torch.ones_like(self.largest), pruned=0.0)
        return own[:, None, None] * weight + left @ right
