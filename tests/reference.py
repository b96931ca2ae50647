"""A slow reference, written straight from the paper: full singular value decompositions in float64, one equation a line.

The labels (E1) to (E5) are those of `lrpet.projecting.projection`. Source: Guo, Lin, Chen, Xing, Liu, Xu: Compact
Model Training by Low-Rank Projection with Energy Transfer, arXiv 2204.05566.
"""

from __future__ import annotations

import torch
from torch import Tensor

DAMPING = 1e-5
"""What the paper adds to α² when it divides by α."""


def singular_values(matrix: Tensor) -> Tensor:
    """Compute σ₁ ≥ σ₂ ≥ …, in float64."""
    values: Tensor = torch.linalg.svdvals(matrix.double())
    return values


def energy(matrix: Tensor) -> float:
    """Compute E = Σσᵢ², (E1), in float64."""
    return singular_values(matrix).square().sum().item()


def gain(values: Tensor, rank: int, tail_scale: float) -> Tensor:
    """Compute g = √((E − ρ²·E_tail) / E_r), (E3): the factor of the kept singular values that conserves the energy E."""
    squared = values.square()
    return torch.sqrt((squared.sum() - tail_scale**2 * squared[rank:].sum()) / squared[:rank].sum())


def project(matrix: Tensor, rank: int, *, energy_transfer: bool = True, tail_scale: float = 0.0) -> Tensor:
    """Compute (E4) by its singular values: those of (E2), the r largest ones, times g, and the others times ρ."""
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    scale = gain(values, rank, tail_scale) if energy_transfer else 1.0
    new: Tensor = left @ torch.diag(torch.cat([scale * values[:rank], tail_scale * values[rank:]])) @ right
    return new


def rectified(
    matrix: Tensor, rank: int, alpha: Tensor, *, energy_transfer: bool = True, tail_scale: float = 0.0
) -> Tensor:
    """Compute (E4) with the V_r, E and E_r of diag(α)·W, (E5): W ← g·W·V_r·V_rᵀ + ρ·(W − W·V_r·V_rᵀ)."""
    matrix, alpha = matrix.double(), alpha.double()
    _, values, right = torch.linalg.svd(torch.diag(alpha) @ matrix, full_matrices=False)
    kept: Tensor = matrix @ right[:rank].T @ right[:rank]
    scale = gain(values, rank, tail_scale) if energy_transfer else 1.0
    return scale * kept + tail_scale * (matrix - kept)


def rectified_damped(
    matrix: Tensor, rank: int, alpha: Tensor, *, energy_transfer: bool = True, tail_scale: float = 0.0
) -> Tensor:
    """Compute (E5) as the paper does: project diag(α)·W, then multiply row i by αᵢ/(αᵢ² + 1e-5)."""
    matrix, alpha = matrix.double(), alpha.double()
    projected = project(torch.diag(alpha) @ matrix, rank, energy_transfer=energy_transfer, tail_scale=tail_scale)
    return torch.diag(alpha / (alpha.square() + DAMPING)) @ projected


def project_outputs(
    matrix: Tensor, inputs: Tensor, rank: int, alpha: Tensor, *, white: float, energy_transfer: bool = True
) -> Tensor:
    """Compute (E4) with the U_r, E and E_r of D·W·S·Wᵀ·D, (E6), from inputs of shape (number, columns).

    S is E[x·xᵀ] + δ·(E‖D·W·x‖²/‖D·W‖²)·I; the second term takes inputs to be white for a part δ, `white`.
    """
    matrix, inputs, scaling = matrix.double(), inputs.double(), torch.diag(alpha.double())
    outputs = scaling @ matrix @ inputs.T
    power, energy_of_weight = outputs.square().sum(0).mean(), (scaling @ matrix).square().sum()
    second = inputs.T @ inputs / len(inputs) + white * power / energy_of_weight * torch.eye(inputs.shape[1])
    root = torch.linalg.cholesky(second.double())
    left, values, _ = torch.linalg.svd(scaling @ matrix @ root, full_matrices=False)
    kept: Tensor = torch.linalg.inv(scaling) @ left[:, :rank] @ left[:, :rank].T @ scaling @ matrix
    return (gain(values, rank, 0.0) if energy_transfer else 1.0) * kept
