"""The leading singular subspace of a stack of matrices, from the cheapest solver that is accurate enough.

A projection needs no singular vectors one by one, only the subspace that the leading r of them span, on the smaller side of
the matrix. Three solvers find it, for M = diag(α)·W (α all ones without rectification) with s = min(rows, columns):

    svd     a full singular value decomposition: the reference, and the last resort
    eigh    the eigenvectors of the s×s Gram matrix G = M·Mᵀ or Mᵀ·M, in the precision that its spectrum needs
    warm    a few steps of block power iteration from the last projection's basis B, in matrix products only:

                A ← G·A·T⁻¹  with  T = Bᵀ·G·A,  from A = B

            T⁻¹ keeps Bᵀ·A = I, so that the change of A in a step is all outside the span of B: it is what A still missed.
            Each step multiplies it by about λ_{r+1}/λ_r, which is small because the last projection emptied the pruned
            singular values; the changes of two steps tell that factor.

Power iteration on a basis goes back to Bauer (1957); see Stewart, Error and perturbation bounds for subspaces associated with
certain eigenvalue problems, SIAM Review 15 (1973), for what it misses.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Solver = Literal["auto", "eigh", "svd"]

#: The relative Frobenius error of the projected matrix up to which a warm start is accepted.
WARM_TOLERANCE = 5e-5
#: The same, estimated, up to which a float32 Gram matrix is good enough; above it float64 is taken.
SINGLE_TOLERANCE = 3e-6
WARM_STEPS = 5
#: What most warm starts take of them, on average.
USUAL_STEPS = 1.25
#: Products of a symmetric result are computed in blocks from this size on: the upper half is never multiplied out.
SYMMETRIC_BLOCK = 128


class Subspace(NamedTuple):
    """How to project a stack W of shape (batch, rows, columns); made by `leading`."""

    left: Tensor
    right: Tensor
    """The projection is left·(rightᵀ·W) for wide matrices (rows ≤ columns), (W·left)·rightᵀ for tall ones: of W, not of M."""
    complement: bool
    """If so, that is the part of W that is pruned, not the part that is kept."""
    basis: Tensor
    """B, shape (batch, s, r): orthonormal columns that span the subspace of M; the next warm start."""
    largest: Tensor
    """σ₁ of M, shape (batch,)."""
    error: Tensor
    """Estimated relative error of the projected matrix, shape (batch,); Inf or NaN where the solver failed."""
    solver: str
    """Which solver found it: "svd", "eigh" or "warm"."""

    def coordinates(self, weight: Tensor) -> Tensor:
        """rightᵀ·W, shape (batch, r, columns), for wide matrices; W·left, shape (batch, rows, r), for tall ones."""
        return self.right.mT @ weight if _wide(weight) else weight @ self.left

    def rebuilt(self, coordinates: Tensor, scale: Tensor, *, wide: bool, out: Tensor | None = None) -> Tensor:
        """The part of W that has these coordinates, times `scale` of shape (batch,); written to `out` if given."""
        scale = scale[:, None, None]
        if wide:
            return torch.bmm(scale * self.left, coordinates, out=out)
        return torch.bmm(coordinates, (scale * self.right).mT, out=out)

    def project(self, weight: Tensor) -> Tensor:
        """The nearest matrices of rank r, undone for rectification; shape (batch, rows, columns)."""
        part = self.rebuilt(self.coordinates(weight), torch.ones_like(self.largest), wide=_wide(weight))
        return weight - part if self.complement else part


def leading(
    weight: Tensor,
    rank: int,
    *,
    row_scale: Tensor | None = None,
    start: Tensor | None = None,
    solver: Solver = "auto",
    energy: Tensor | None = None,
) -> Subspace:
    """The subspace of the `rank` largest singular values of diag(row_scale)·weight.

    Args:
        weight: W, shape (batch, rows, columns), float32 or float64, finite.
        rank: From 1 to s.
        row_scale: α, shape (batch, rows).
        start: A basis from an earlier call, shape (batch, s, rank). Without one there is no warm start.
        solver: "auto" starts warm where there is a `start`, and takes "eigh" where there is none or it was not good enough.
            On a GPU nothing looks whether it was, as the host would have to wait: if `error` is above `WARM_TOLERANCE`, ask
            again with "eigh".
        energy: ‖diag(row_scale)·W‖²_F, shape (batch,), if it is known.

    Raises torch.linalg.LinAlgError if a decomposition does not converge.
    """
    with full_precision(weight.device):
        if solver == "svd":
            return _from_svd(weight, rank, row_scale)
        if solver != "auto" or start is None:
            return _from_gram(weight, rank, row_scale)
        operator = _Operator(weight, row_scale, rank)
        energy = squared_norm(weight, row_scale) if energy is None else energy
        found = _warm(weight, row_scale, start, operator, energy)
        if weight.is_cuda or bool((found.error <= WARM_TOLERANCE).all()):
            return found
        return _from_gram(weight, rank, row_scale, gram=operator.gram)


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Inside, float32 products are float32 products: a loop may step under autocast, or allow TF32 or bfloat16 for speed."""
    before = torch.get_float32_matmul_precision()
    with torch.autocast(device.type, enabled=False):
        if before == "highest":
            yield
            return
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)


def _from_svd(weight: Tensor, rank: int, row_scale: Tensor | None) -> Subspace:
    folded = _scaled(weight, row_scale)
    left, values, right = torch.linalg.svd(folded.double(), full_matrices=False)
    wide = _wide(weight)
    basis = (left[..., :rank] if wide else right[..., :rank, :].mT).to(weight.dtype)
    undone = basis
    if wide and row_scale is not None:  # diag(α)⁻¹·U_r = W·V_r·Σ_r⁻¹, without dividing by α
        inverse = _inverse(values[..., :rank], values[..., :1])
        undone = ((weight.double() @ right[..., :rank, :].mT) * inverse[..., None, :]).to(weight.dtype)
    zero = torch.zeros_like(values[..., 0], dtype=weight.dtype)
    return Subspace(
        undone, _scaled(basis, row_scale) if wide else basis, False, basis, values[..., 0].to(weight.dtype), zero, "svd"
    )


def _from_gram(weight: Tensor, rank: int, row_scale: Tensor | None, *, gram: Tensor | None = None) -> Subspace:
    # On a GPU float64 is cheap, and the host would have to wait to see whether float32 is enough.
    single = weight.dtype == torch.float32 and not weight.is_cuda
    if gram is None or not single:
        gram = _gram(weight if single else weight.double(), row_scale)
    values, vectors = torch.linalg.eigh(_folded(gram, row_scale, weight))
    if single and not (_single_error(values, rank) <= SINGLE_TOLERANCE).all():
        gram = _gram(weight.double(), row_scale)
        values, vectors = torch.linalg.eigh(_folded(gram, row_scale, weight))
    wide = _wide(weight)
    size = vectors.shape[-1]
    basis = vectors[..., size - rank :]
    error = torch.where(vectors.isfinite().all(-1).all(-1), 0.0, torch.inf).to(weight.dtype)
    largest = values[..., -1].clamp(min=0).sqrt().to(weight.dtype)
    rectified = wide and row_scale is not None
    if 2 * rank > size and not rectified:  # fewer vectors are pruned than kept
        pruned = vectors[..., : size - rank].to(weight.dtype)
        return Subspace(pruned, pruned, True, basis.to(weight.dtype), largest, error, "eigh")
    undone = basis
    if rectified:  # diag(α)⁻¹·U_r = W·Wᵀ·diag(α)·U_r·Λ_r⁻¹, without dividing by α
        kept = values[..., size - rank :]
        undone = gram @ _scaled(basis, row_scale) * _inverse(kept, values[..., -1:])[..., None, :]
    basis, undone = basis.to(weight.dtype), undone.to(weight.dtype)
    return Subspace(undone, _scaled(basis, row_scale) if wide else undone, False, basis, largest, error, "eigh")


def _warm(weight: Tensor, row_scale: Tensor | None, start: Tensor, operator: _Operator, energy: Tensor) -> Subspace:
    wide = _wide(weight)
    scale = row_scale if wide else None  # rows of the Gram matrix that are scaled around its product, if any
    moved, scaled_start = start, _scaled(start, scale)
    error = previous = torch.ones(weight.shape[:1], dtype=weight.dtype, device=weight.device)
    for step in range(WARM_STEPS):
        product = operator.apply(_scaled(moved, scale) if step else scaled_start)  # diag(α)⁻¹·G·A
        inner = scaled_start.mT @ product  # T = Bᵀ·G·A
        inverse, _ = torch.linalg.inv_ex(inner)
        undone = product @ inverse
        before, moved = moved, _scaled(undone, scale)
        values = inner.diagonal(dim1=-2, dim2=-1)
        change = torch.linalg.vector_norm(moved - before, dim=-2).square() * values
        previous, error = error, (change.sum(-1) / values.sum(-1)).clamp(min=0).sqrt()  # of the A before this step
        # What A misses after this step. A step shrinks what vector i misses by λ_{r+1}/λᵢ; λ_{r+1} is at most the energy that
        # is pruned, E − Σλᵢ, and 1/λᵢ is about T⁻¹ᵢᵢ. Σλᵢ is tr(T), but for the start, which misses some of it still: there
        # it is tr(Aᵀ·G·B). After two changes their ratio says more. (It grows towards λ_{r+1}/λ_r: hence the root.)
        kept = values.sum(-1) if step else (_scaled(moved, scale) * product).sum((-2, -1))
        pruned = (energy - kept).clamp(min=0) + 3e-7 * energy  # what float32 sums are right to
        shrunk = change * inverse.diagonal(dim1=-2, dim2=-1).square()
        remaining = pruned * (shrunk.sum(-1) / values.sum(-1)).clamp(min=0).sqrt()
        ratio = error / previous
        if step:
            remaining = torch.minimum(remaining, error * ratio.sqrt())
        if not weight.is_cuda:  # a GPU would have to be waited for to look at the error
            hopeless = error * ratio ** (WARM_STEPS - 1 - step) > WARM_TOLERANCE
            if bool((remaining <= WARM_TOLERANCE).all()) or (step and bool(hopeless.any())):
                break
    factor, failed = torch.linalg.cholesky_ex(moved.mT @ moved)
    undone = torch.linalg.solve_triangular(factor.mT, undone, upper=True, left=False)
    basis = _scaled(undone, scale)
    largest = values.amax(-1).clamp(min=0).sqrt()
    error = torch.where((failed == 0) & remaining.isfinite(), remaining, torch.inf)
    return Subspace(undone, _scaled(basis, scale) if wide else basis, False, basis, largest, error, "warm")


class _Operator:
    """Multiplies by the Gram matrix of diag(α)·W on its smaller side: formed, or as two products, whichever is cheaper.

    For wide matrices the rows are left for the caller to scale, on both sides, so that diag(α) never has to be undone.
    """

    def __init__(self, weight: Tensor, row_scale: Tensor | None, rank: int) -> None:
        rows, columns = weight.shape[-2:]
        small, large = min(rows, columns), max(rows, columns)
        formed = 0.7 * small * large + USUAL_STEPS * small * rank < 2 * USUAL_STEPS * large * rank
        wide = rows <= columns
        self.weight = weight if wide else _scaled(weight, row_scale).mT
        self.gram = _gram(weight, row_scale) if formed else None

    def apply(self, vectors: Tensor) -> Tensor:
        if self.gram is not None:
            return self.gram @ vectors
        return self.weight @ (self.weight.mT @ vectors)


def squared_norm(weight: Tensor, row_scale: Tensor | None) -> Tensor:
    """‖diag(α)·W‖²_F of each matrix of a stack, shape (batch,): the energy."""
    return _scaled(torch.linalg.vector_norm(weight, dim=-1)[..., None], row_scale).square().sum((-2, -1))


def _wide(weight: Tensor) -> bool:
    return weight.shape[-2] <= weight.shape[-1]


def _scaled(stack: Tensor, row_scale: Tensor | None) -> Tensor:
    return stack if row_scale is None else row_scale[..., None].to(stack.dtype) * stack


def _gram(weight: Tensor, row_scale: Tensor | None) -> Tensor:
    """W·Wᵀ (not yet scaled) for wide matrices, (diag(α)·W)ᵀ·(diag(α)·W) for tall ones."""
    wide = _wide(weight)
    return _symmetric_product(weight if wide else _scaled(weight, row_scale).mT)


def _symmetric_product(matrix: Tensor) -> Tensor:
    """A·Aᵀ, its blocks above the diagonal copied from those below."""
    size = matrix.shape[-2]
    if size <= SYMMETRIC_BLOCK or matrix.is_cuda:
        return matrix @ matrix.mT
    half = size // 2
    upper, lower = matrix[..., :half, :], matrix[..., half:, :]
    result = matrix.new_empty(*matrix.shape[:-2], size, size)
    result[..., :half, :half] = _symmetric_product(upper)
    result[..., half:, half:] = _symmetric_product(lower)
    corner = lower @ upper.mT
    result[..., half:, :half] = corner
    result[..., :half, half:] = corner.mT
    return result


def _folded(gram: Tensor, row_scale: Tensor | None, weight: Tensor) -> Tensor:
    """diag(α)·W·Wᵀ·diag(α) for wide matrices; for tall ones α is in the Gram matrix already."""
    if row_scale is None or not _wide(weight):
        return gram
    scale = row_scale.to(gram.dtype)
    return scale[..., :, None] * gram * scale[..., None, :]


def _inverse(kept: Tensor, largest: Tensor) -> Tensor:
    """1/x, and 0 for what is zero but for rounding."""
    return torch.where(kept > torch.finfo(kept.dtype).eps * largest, 1 / kept, 0.0)


def _single_error(values: Tensor, rank: int) -> Tensor:
    """First-order estimate of what rounding a Gram matrix to float32 does to the projected matrix, relative.

    An error e in each entry turns kept vector i towards pruned vector j by e/(λᵢ − λⱼ). With e = 6·ε·‖G‖_F/s the estimate
    is within a factor 2 of the error that was seen over random, decaying and trained spectra.
    """
    size = values.shape[-1]
    if rank == size:
        return torch.zeros_like(values[..., 0])
    kept, pruned = values[..., size - rank :].clamp(min=0), values[..., : size - rank]
    gaps = (kept[..., :, None] - pruned[..., None, :]).clamp(min=1e-30)
    turned = (kept[..., :, None] / gaps.square()).sum((-2, -1)).sqrt()
    entry = 6 * torch.finfo(torch.float32).eps * torch.linalg.vector_norm(values, dim=-1) / size
    relative: Tensor = entry * turned / kept.sum(-1).sqrt()
    return relative
