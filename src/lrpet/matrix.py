"""A layer's weight seen as a matrix: which layers have one, its shape, and the batch norm's scale of its rows."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

#: Layers whose multiply-adds and weights count towards a network's totals, whether or not they can be factorised.
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
COUNTED = (*CONVOLUTIONS, nn.Linear)


def unsupported(module: nn.Module) -> str | None:
    """Why `module` cannot be projected and factorised, in words; None if it can."""
    base = nn.Conv2d if isinstance(module, nn.Conv2d) else nn.Linear if isinstance(module, nn.Linear) else None
    if base is None:
        return f"{type(module).__name__} is not supported"
    if parametrize.is_parametrized(module) or "weight" not in module._parameters:
        return "its weight is computed by a parametrization"
    if type(module).forward is not base.forward or "forward" in vars(module):
        return f"{type(module).__name__} has a forward of its own"
    if isinstance(module, nn.Conv2d):
        if type(module)._conv_forward is not nn.Conv2d._conv_forward:
            return f"{type(module).__name__} has a forward of its own"
        if module.groups != 1:
            return f"grouped convolution (groups={module.groups}) is not supported"
    weight = module.weight
    if not (isinstance(weight, Tensor) and weight.is_floating_point()):
        return "its weight is not a floating-point tensor"
    if not weight.numel():
        return "its weight is empty"
    return None


def matrix_shape(module: nn.Module) -> tuple[int, int]:
    """(rows, columns) of the weight as a matrix: (n, c·k·k) for a convolution of n filters, (n, c) for a linear."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight.shape[0], weight.shape[1:].numel()


def as_matrix(weight: Tensor) -> Tensor:
    """The "channel" unfolding of a weight: (n, c, k, k) → (n, c·k·k); (n, c) stays. A view where strides allow it."""
    return weight.flatten(1)


def row_scale(batch_norm: nn.Module) -> Tensor:
    """α = γ / √(var + ε), shape (n,): what folding this batch norm into the layer before it multiplies each row by."""
    assert isinstance(batch_norm, _BatchNorm)
    assert batch_norm.running_var is not None
    variance = batch_norm.running_var.to(torch.promote_types(batch_norm.running_var.dtype, torch.float32))
    scale = torch.rsqrt(variance + batch_norm.eps)
    return scale if batch_norm.weight is None else scale * batch_norm.weight.detach().to(scale.dtype)


def can_rectify(batch_norm: nn.Module) -> bool:
    """Whether `batch_norm` folds into the layer before it at inference: it must keep running statistics."""
    return isinstance(batch_norm, _BatchNorm) and batch_norm.running_var is not None
