"""Batch norm: which modules are one, and the scale that it folds into the layer before it."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def is_batch_norm(module: nn.Module) -> bool:
    """Whether the module normalises by batch statistics: PyTorch's, subclasses, and the frozen ones of detectors."""
    return isinstance(module, nn.modules.batchnorm._BatchNorm) or (
        type(module).__name__.startswith("FrozenBatchNorm") and {"weight", "running_var"} <= module._buffers.keys()
    )


def can_rectify(batch_norm: nn.Module) -> bool:
    """Whether the batch norm folds into the layer before it at inference: it must keep running statistics."""
    return is_batch_norm(batch_norm) and isinstance(batch_norm.running_var, Tensor)


def row_scale(batch_norm: nn.Module) -> Tensor:
    """Return α = γ / √(var + ε), shape (n,): what folding the batch norm multiplies each channel by."""
    variance, gamma = batch_norm.running_var, batch_norm.weight
    assert isinstance(variance, Tensor)
    assert gamma is None or isinstance(gamma, Tensor)
    assert isinstance(batch_norm.eps, float)
    scale = torch.rsqrt(variance.to(torch.promote_types(variance.dtype, torch.float32)) + batch_norm.eps)
    return scale if gamma is None else scale * gamma.detach().to(scale.dtype)
