"""The leading singular subspace of a matrix."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Subspace(NamedTuple):
    """The leading right singular subspace of a matrix M of shape (rows, columns)."""

    basis: Tensor
    """V_r, shape (columns, r): orthonormal columns, the right singular vectors of the r largest singular values."""
    largest: Tensor
    """σ₁, a scalar tensor."""


def leading(matrix: Tensor, rank: int) -> Subspace:
    """The leading right singular subspace of dimension `rank`, from a full singular value decomposition."""
    _, singular_values, right = torch.linalg.svd(matrix, full_matrices=False)
    return Subspace(basis=right[:rank].mT, largest=singular_values[0])
