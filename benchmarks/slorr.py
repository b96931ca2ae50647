"""SLORR's Hoyer regulariser, ‖W‖²_* / ‖W‖²_F.

González-Martínez, Liu: SLORR: Simple and Efficient In-Training Low-Rank Regularization, arXiv 2607.08754. The polar factor in
the gradient is computed by a decomposition here, where the authors approximate it.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: The strength of the regulariser in its authors' example.
STRENGTH = 0.1


def hoyer_gradient(stack: Tensor) -> Tensor:
    """Compute the gradient of ‖W‖²_* / ‖W‖²_F for a stack of matrices of full rank, shape (batch, rows, columns)."""
    polar, nuclear = _polar(stack)
    frobenius = torch.linalg.vector_norm(stack, dim=(1, 2))
    ratio = nuclear / frobenius
    direction = polar - (ratio / frobenius)[:, None, None] * stack
    gradient: Tensor = (2 * ratio / frobenius)[:, None, None] * direction
    return gradient


def _polar(stack: Tensor) -> tuple[Tensor, Tensor]:
    """Return U·Vᵀ and the nuclear norms of a stack of matrices U·Σ·Vᵀ of full rank, from their smaller Gram matrices."""
    if stack.shape[1] > stack.shape[2]:
        polar, nuclear = _polar(stack.mT)
        return polar.mT, nuclear
    double = stack.double()
    values, left = torch.linalg.eigh(double @ double.mT)
    values = values.clamp_min(1e-12).sqrt()
    polar = left / values[:, None] @ (left.mT @ double)
    return polar.to(stack.dtype), values.sum(-1).to(stack.dtype)
