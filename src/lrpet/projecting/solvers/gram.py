"""The leading subspace from the eigenvectors of the Gram matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from lrpet.projecting.matrices import inverse_or_zero, is_wide, scaled_rows
from lrpet.projecting.subspace import Subspace

#: The relative Frobenius error of the projected matrix, estimated, up to which a float32 Gram matrix is good enough.
#: Above it a float64 one is taken.
SINGLE_TOLERANCE = 3e-6
#: From this size on a symmetric product is computed in blocks: the upper half is never multiplied out.
SYMMETRIC_BLOCK = 128


def from_gram(weight: Tensor, rank: int, row_scale: Tensor | None, *, gram: Tensor | None = None) -> Subspace:
    """Find the subspace in the eigenvectors of the Gram matrix G of diag(α)·W, s×s.

    G is M·Mᵀ for wide matrices and Mᵀ·M for tall ones. It is formed in float32 or, where the spectrum needs it, in float64.
    The arguments are those of `leading`; `gram` is what `gram_matrix` gives for them, if it was formed already.
    """
    # On a GPU float64 is cheap, and the host would have to wait to see whether float32 is enough.
    single = weight.dtype == torch.float32 and not weight.is_cuda
    if gram is None or not single:
        gram = gram_matrix(weight if single else weight.double(), row_scale)
    wide = is_wide(weight)
    values, vectors = torch.linalg.eigh(_folded(gram, row_scale, wide=wide))
    if single and not (_single_error(values, rank) <= SINGLE_TOLERANCE).all():
        gram = gram_matrix(weight.double(), row_scale)
        values, vectors = torch.linalg.eigh(_folded(gram, row_scale, wide=wide))
    size = vectors.shape[-1]
    kept = vectors[..., size - rank :]
    basis = kept.to(weight.dtype)
    rectified = wide and row_scale is not None
    complement = 2 * rank > size and not rectified  # fewer vectors are pruned than kept
    if complement:
        left = right = vectors[..., : size - rank].to(weight.dtype)
    elif rectified:  # diag(α)⁻¹·U_r = W·Wᵀ·diag(α)·U_r·Λ_r⁻¹, without dividing by α
        inverted = inverse_or_zero(values[..., size - rank :], values[..., -1:])[..., None, :]
        left, right = (gram @ scaled_rows(kept, row_scale) * inverted).to(weight.dtype), scaled_rows(basis, row_scale)
    else:
        left = right = basis
    return Subspace(
        wide=wide,
        left=left,
        right=right,
        complement=complement,
        basis=basis,
        largest=values[..., -1].clamp(min=0).sqrt().to(weight.dtype),
        error=torch.where(vectors.isfinite().all(-1).all(-1), 0.0, torch.inf).to(weight.dtype),
        solver="eigh",
    )


def gram_matrix(weight: Tensor, row_scale: Tensor | None) -> Tensor:
    """Compute W·Wᵀ of wide matrices, not yet scaled, or Mᵀ·M with M = diag(α)·W of tall ones, shape (batch, s, s)."""
    return _symmetric_product(weight if is_wide(weight) else scaled_rows(weight, row_scale).mT)


def _symmetric_product(matrix: Tensor) -> Tensor:
    """Compute A·Aᵀ, its blocks above the diagonal copied from those below."""
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


def _folded(gram: Tensor, row_scale: Tensor | None, *, wide: bool) -> Tensor:
    """Compute diag(α)·G·diag(α) of wide matrices; the Gram matrix of tall ones has α in it already."""
    if row_scale is None or not wide:
        return gram
    scale = row_scale.to(gram.dtype)
    return scale[..., :, None] * gram * scale[..., None, :]


def _single_error(values: Tensor, rank: int) -> Tensor:
    """Estimate, to first order, the relative error that a float32 Gram matrix leaves in the projected matrix.

    An error e in each entry turns kept vector i towards pruned vector j by e/(λᵢ − λⱼ). With e = 6·ε·‖G‖_F/s the estimate
    is within a factor 2 of the error that was seen over random, decaying and trained spectra.

    Args:
        values: The eigenvalues λ, ascending, shape (batch, s).
        rank: How many of them are kept.
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
