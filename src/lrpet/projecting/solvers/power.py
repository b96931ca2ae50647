"""The leading subspace from the last projection's basis, by block power iteration.

For the Gram matrix G of M = diag(α)·W and an orthonormal basis B of the last projection's subspace, a step is

    A ← C·(Bᵀ·C)⁻¹  with  C = G·A·T⁻¹  and  T = Bᵀ·G·B,  from A = B.

Bᵀ·A = I then, so that the change of A in a step is all outside the span of B: it is what A still missed. Each step multiplies
it by about λ_{r+1}/λ_r, which is small because the last projection emptied the pruned singular values. The changes of two steps
tell that factor. T is inverted once. Bᵀ·C is I but for the square of what B missed, so that two terms of a series invert it.

Power iteration on a basis goes back to Bauer (1957); see Stewart, Error and perturbation bounds for subspaces associated with
certain eigenvalue problems, SIAM Review 15 (1973), for what it misses.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lrpet.projecting.matrices import is_wide, scaled_rows
from lrpet.projecting.solvers.gram import gram_matrix
from lrpet.projecting.subspace import Subspace

#: The relative Frobenius error of the projected matrix, estimated, up to which a warm start is accepted.
WARM_TOLERANCE = 5e-5
#: The most steps from one basis on a CPU, which looks after each whether it was enough.
WARM_STEPS = 5
#: The steps from one basis on a GPU, where nothing looks.
GPU_STEPS = 2
#: How many steps a warm start takes on average.
USUAL_STEPS = 1.25


class GramOperator:
    """The Gram matrix of diag(α)·W on its smaller side, to multiply by; the rows of wide matrices unscaled.

    It is formed, or applied as two products with W, whichever is cheaper. The caller scales the rows of wide matrices on both
    sides of the product, so that diag(α) never has to be undone.
    """

    def __init__(self, weight: Tensor, row_scale: Tensor | None, rank: int) -> None:
        rows, columns = weight.shape[-2:]
        small, large = min(rows, columns), max(rows, columns)
        cheaper = 0.7 * small * large + USUAL_STEPS * small * rank < 2 * USUAL_STEPS * large * rank
        self.weight = weight if is_wide(weight) else scaled_rows(weight, row_scale).mT
        self.formed = gram_matrix(weight, row_scale) if cheaper else None
        """What `gram_matrix` gives, shape (batch, s, s), if forming it is cheaper."""

    def __call__(self, vectors: Tensor) -> Tensor:
        """Multiply vectors of shape (batch, s, rank)."""
        if self.formed is not None:
            return self.formed @ vectors
        return self.weight @ (self.weight.mT @ vectors)


def from_basis(weight: Tensor, row_scale: Tensor | None, start: Tensor, gram: GramOperator, energy: Tensor) -> Subspace:
    """Improve `start` step by step, until the estimated error is small enough or no step can make it so.

    On a GPU a fixed number of steps is taken, because the host would have to wait to look at the error.

    Args:
        weight: W, shape (batch, rows, columns).
        row_scale: α, shape (batch, rows), or None.
        start: B, orthonormal, shape (batch, s, rank).
        gram: The Gram matrix of diag(α)·W, to multiply by.
        energy: ‖diag(α)·W‖²_F, shape (batch,).
    """
    wide, looking = is_wide(weight), not weight.is_cuda
    scale = row_scale if wide else None  # rows of the Gram matrix that are scaled around its product, if any
    iterate, scaled_start = start, scaled_rows(start, scale)  # A and diag(α)·B
    product = gram(scaled_start)  # diag(α)⁻¹·G·A
    inner = scaled_start.mT @ product  # T
    factor, failed = torch.linalg.cholesky_ex(inner)
    identity = torch.eye(inner.shape[-1], dtype=inner.dtype, device=inner.device).expand_as(inner)
    inverse_root = torch.linalg.solve_triangular(factor, identity, upper=False)
    inverted = inverse_root.mT @ inverse_root
    values, inverse_values = (each.diagonal(dim1=-2, dim2=-1) for each in (inner, inverted))
    total, pruned = values.sum(-1), energy
    error = previous = torch.ones_like(energy)
    steps = WARM_STEPS if looking else GPU_STEPS
    for step in range(steps):
        if step:
            product = gram(scaled_rows(iterate, scale))
        unscaled = product @ inverted
        if step:  # from A = B, Bᵀ·C is I as it is
            unscaled = _overlapping(unscaled, scaled_start)
        before, iterate = iterate, scaled_rows(unscaled, scale)
        change = torch.linalg.vector_norm(iterate - before, dim=-2).square() * values
        previous, error = error, (change.sum(-1) / total).clamp(min=0).sqrt()  # of the A before this step
        if not step:  # tr(Aᵀ·G·B) has some of the energy that the start misses, and what is pruned is the rest
            kept = (scaled_rows(iterate, scale) * product).sum((-2, -1))
            pruned = (energy - kept).clamp(min=0) + 3e-7 * energy  # what float32 sums are right to
        if not looking and step < steps - 1:
            continue
        # What A misses after this step. A step shrinks what vector i misses by λ_{r+1}/λᵢ; λ_{r+1} is at most the energy that
        # is pruned, and 1/λᵢ is about T⁻¹ᵢᵢ. After two changes their ratio says more. (It grows towards λ_{r+1}/λ_r: hence the
        # root.)
        shrunk = change * inverse_values.square()
        remaining = pruned * (shrunk.sum(-1) / total).clamp(min=0).sqrt()
        ratio = error / previous
        if step:
            remaining = torch.minimum(remaining, error * ratio.sqrt())
        if looking:
            hopeless = error * ratio ** (WARM_STEPS - 1 - step) > WARM_TOLERANCE
            if bool((remaining <= WARM_TOLERANCE).all()) or (step and bool(hopeless.any())):
                break
    found, unfound = torch.linalg.cholesky_ex(iterate.mT @ iterate)
    unscaled = torch.linalg.solve_triangular(found.mT, unscaled, upper=True, left=False)
    basis = scaled_rows(unscaled, scale)
    return Subspace(
        wide=wide,
        left=unscaled,
        right=scaled_rows(basis, scale) if wide else basis,
        complement=False,
        basis=basis,
        largest=values.amax(-1).clamp(min=0).sqrt(),
        error=torch.where((failed + unfound == 0) & remaining.isfinite(), remaining, torch.inf),
        solver="warm",
    )


def _overlapping(vectors: Tensor, start: Tensor) -> Tensor:
    """Return C·(Bᵀ·C)⁻¹ for vectors C that nearly have Bᵀ·C = I already: (I + N)⁻¹ is I − N + N² but for N³."""
    off = start.mT @ vectors
    off.diagonal(dim1=-2, dim2=-1).sub_(1)
    return vectors - vectors @ (off - off @ off)
