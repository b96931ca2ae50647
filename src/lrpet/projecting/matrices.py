"""Arithmetic that the projection and its solvers share, on stacks of matrices of shape (batch, rows, columns)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Compute float32 products in float32 inside the block.

    A training loop may step under autocast, or allow TF32 or bfloat16 products for speed. That would cost a projection three
    digits. The loop's own setting is back after the block.
    """
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


def is_wide(stack: Tensor) -> bool:
    """Tell whether the matrices have at most as many rows as columns, so that the smaller side is the rows."""
    return stack.shape[-2] <= stack.shape[-1]


def scaled_rows(stack: Tensor, row_scale: Tensor | None) -> Tensor:
    """Compute diag(α)·W of every matrix; without a `row_scale`, return the stack itself.

    Args:
        stack: W, shape (batch, rows, columns).
        row_scale: α, shape (batch, rows).
    """
    return stack if row_scale is None else row_scale[..., None].to(stack.dtype) * stack


def energies(stack: Tensor, row_scale: Tensor | None) -> Tensor:
    """Compute the energy ‖diag(α)·W‖²_F of every matrix, shape (batch,): (E1), of the folded matrix if α is given."""
    return scaled_rows(torch.linalg.vector_norm(stack, dim=-1)[..., None], row_scale).square().sum((-2, -1))


def inverse_or_zero(values: Tensor, largest: Tensor) -> Tensor:
    """Compute 1/x of every value, and 0 of a value that is zero but for rounding beside the largest."""
    return torch.where(values > torch.finfo(values.dtype).eps * largest, 1 / values, 0.0)
