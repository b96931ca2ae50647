"""A layer's weight seen as matrices: which layers have them, their shape, and the batch norm's scale of their rows.

| layer                 | weight           | rows, columns of each of g groups   | its two factors                     |
|-----------------------|------------------|-------------------------------------|-------------------------------------|
| Linear                | n, c             | n, c                                | c→r, r→n                            |
| transformers' Conv1D  | c, n             | n, c                                | c→r, r→n, both Linear               |
| Conv1d, 2d, 3d        | n, c/g, k…       | n/g, c/g·k…            ("channel")  | k… convolution c→g·r, 1… g·r→n      |
| Conv2d                | n, c/g, kh, kw   | n/g·kw, c/g·kh         ("spatial")  | kh×1 convolution c→g·r, 1×kw g·r→n  |
| ConvTranspose1d to 3d | c, n/g, k…       | n/g·k…, c/g                         | 1… convolution c→g·r, transposed k… |
| MultiheadAttention    | 3·n, n (packed)  | n, n; g = 3: query, key and value   | n→r, r→n for each                   |

Groups of a convolution never mix, so each has a matrix of its own; in a depthwise convolution that is a single row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils import parametrize

#: How a convolution's kernel is divided between the two factors; see the table above.
Unfolding = Literal["channel", "spatial"]

_KINDS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Linear,
    nn.MultiheadAttention,
)

#: Subclasses with a forward of their own that is the plain layer's after all, or that pads by the size of its input.
_EQUIVALENT = ("transformers.models.falcon.modeling_falcon.FalconLinear",)
_PADDED_BY_INPUT = ("timm.layers.conv2d_same.Conv2dSame",)


@dataclass(frozen=True)
class Shape:
    """Shape of a weight as matrices."""

    rows: int
    """Of all groups together."""
    columns: int
    groups: int = 1

    @property
    def full_rank(self) -> int:
        """The largest rank that each group can have."""
        return min(self.rows // max(1, self.groups), self.columns)

    def __str__(self) -> str:
        each = f"{self.rows // max(1, self.groups)}×{self.columns}"
        return each if self.groups == 1 else f"{self.groups} of {each}"


def is_counted(module: nn.Module) -> bool:
    """Whether the module's multiply-adds and parameters count towards a network's totals, factorised or not."""
    return isinstance(module, _KINDS) or is_transformers_conv1d(module)


def is_transformers_conv1d(module: nn.Module) -> bool:
    """Whether this is the linear of GPT-2 and its kin, which stores its weight as (inputs, outputs)."""
    return any(
        kind.__name__ == "Conv1D" and kind.__module__.startswith("transformers.") for kind in type(module).__mro__
    )


def pads_by_input(module: nn.Module) -> bool:
    """Whether this is timm's convolution that pads as TensorFlow does, by the size of its input."""
    return _path(module) in _PADDED_BY_INPUT


def _path(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def weight_of(module: nn.Module) -> Tensor:
    """The parameter that is projected."""
    weight = module.in_proj_weight if isinstance(module, nn.MultiheadAttention) else module.weight
    assert isinstance(weight, Tensor)
    return weight


def bias_of(module: nn.Module) -> Tensor | None:
    """The bias that goes with `weight_of(module)`, if there is one."""
    bias = module.in_proj_bias if isinstance(module, nn.MultiheadAttention) else module.bias
    assert bias is None or isinstance(bias, Tensor)
    return bias


def tensors_of(module: nn.Module) -> list[Tensor]:
    """Weights and biases of a counted module, computed ones included."""
    if isinstance(module, nn.MultiheadAttention):
        return [parameter for parameter in module._parameters.values() if parameter is not None]
    return [tensor for tensor in (module.weight, module.bias) if isinstance(tensor, Tensor)]


def unsupported(module: nn.Module) -> str | None:
    """Why `module` cannot be projected and factorised, in words; None if it can."""
    name = type(module).__name__
    if isinstance(module, nn.RNNBase):
        return f"{name} runs its weights in one fused kernel, which takes no factors"
    if not is_counted(module):
        return f"{name} is not supported"
    own = "in_proj_weight" if isinstance(module, nn.MultiheadAttention) else "weight"
    if parametrize.is_parametrized(module) or own not in module._parameters:
        return "its weight is computed by a parametrization"
    if _changed(module):
        return f"{name} has a forward of its own"
    if isinstance(module, nn.MultiheadAttention) and (why := _unusual(module)) is not None:
        return why
    weight = weight_of(module)
    if not weight.is_floating_point():
        return "its weight is not a floating-point tensor"
    if not weight.numel():
        return "its weight is empty"
    if (shape := shape_of(module)).groups > 1 and shape.full_rank == 1:
        return "depthwise: each group's matrix has rank 1 already"
    return None


def _changed(module: nn.Module) -> bool:
    """Whether a subclass or a patch computes something else than the layer we know."""
    if "forward" in vars(module):
        return True
    if _path(module) in _EQUIVALENT or pads_by_input(module):
        return False
    base = next((kind for kind in _KINDS if isinstance(module, kind)), None)
    if base is None:
        return False  # transformers' Conv1D
    return any(
        getattr(type(module), method, None) is not getattr(base, method, None)
        for method in ("forward", "_conv_forward")
    )


def _unusual(attention: nn.MultiheadAttention) -> str | None:
    if not attention._qkv_same_embed_dim:
        return "its query, key and value have different widths"
    if attention.bias_k is not None or attention.add_zero_attn:
        return "it adds a key and a value of its own (add_bias_kv, add_zero_attn)"
    return None


def shape_of(module: nn.Module, unfolding: Unfolding = "channel") -> Shape:
    """Shape of the weight of a counted module as matrices; 0 × 0 where it has no single weight."""
    if isinstance(module, nn.MultiheadAttention):
        width = module.embed_dim
        return Shape(3 * width, width, 3) if module._qkv_same_embed_dim else Shape(0, 0)
    weight = weight_of(module)
    if is_transformers_conv1d(module):
        return Shape(weight.shape[1], weight.shape[0])
    if not isinstance(module, _ConvNd):
        return Shape(weight.shape[0], weight.shape[1])
    first, second, kernel = weight.shape[0], weight.shape[1], weight.shape[2:]
    if isinstance(module, _ConvTransposeNd):
        return Shape(second * module.groups * kernel.numel(), first // module.groups, module.groups)
    if unfolding == "spatial" and isinstance(module, nn.Conv2d):
        return Shape(first * kernel[1], second * kernel[0], module.groups)
    return Shape(first, second * kernel.numel(), module.groups)


def channels_of(module: nn.Module) -> int:
    """Output channels or features of a counted module: how many numbers its batch norm has."""
    if isinstance(module, _ConvNd):
        return module.out_channels
    return shape_of(module).rows


def unfold(module: nn.Module, unfolding: Unfolding = "channel", *, of: Tensor | None = None) -> Tensor:
    """The weight, or a tensor `of` its shape, as matrices (groups, rows/groups, columns). A view where strides allow it."""
    weight, shape = weight_of(module) if of is None else of, shape_of(module, unfolding)
    if is_transformers_conv1d(module):
        return weight.mT[None]
    if isinstance(module, _ConvTransposeNd):
        return weight.flatten(1).view(shape.groups, shape.columns, -1).mT
    if isinstance(module, nn.Conv2d) and unfolding == "spatial":
        return weight.permute(0, 3, 1, 2).reshape(shape.groups, -1, shape.columns)
    return weight.flatten(1).view(shape.groups, -1, shape.columns)


def fold(matrices: Tensor, module: nn.Module, unfolding: Unfolding = "channel") -> Tensor:
    """The inverse of `unfold`: matrices of shape (groups, rows/groups, columns) as a tensor of the weight's shape."""
    weight = weight_of(module)
    if is_transformers_conv1d(module):
        return matrices[0].mT
    if isinstance(module, _ConvTransposeNd):
        return matrices.mT.reshape(weight.shape)
    if isinstance(module, nn.Conv2d) and unfolding == "spatial":
        _, c, kh, kw = weight.shape
        return matrices.reshape(-1, kw, c, kh).permute(0, 2, 3, 1)
    return matrices.reshape(weight.shape)


def scale_of_rows(alpha: Tensor, module: nn.Module, unfolding: Unfolding = "channel") -> Tensor:
    """α of every output channel, shape (n,), as a scale of the rows of `unfold`, shape (groups, rows/groups)."""
    shape = shape_of(module, unfolding)
    return alpha.repeat_interleave(shape.rows // len(alpha)).view(shape.groups, -1)


def row_scale(batch_norm: nn.Module) -> Tensor:
    """α = γ / √(var + ε), shape (n,): what folding this batch norm into the layer before it multiplies each channel by."""
    variance, gamma = batch_norm.running_var, batch_norm.weight
    assert isinstance(variance, Tensor)
    assert gamma is None or isinstance(gamma, Tensor)
    assert isinstance(batch_norm.eps, float)
    scale = torch.rsqrt(variance.to(torch.promote_types(variance.dtype, torch.float32)) + batch_norm.eps)
    return scale if gamma is None else scale * gamma.detach().to(scale.dtype)


def is_batch_norm(module: nn.Module) -> bool:
    """Whether this normalises by batch statistics: PyTorch's, those made from them, and the frozen ones of detectors."""
    return isinstance(module, nn.modules.batchnorm._BatchNorm) or (
        type(module).__name__.startswith("FrozenBatchNorm") and {"weight", "running_var"} <= module._buffers.keys()
    )


def can_rectify(batch_norm: nn.Module) -> bool:
    """Whether `batch_norm` folds into the layer before it at inference: it must keep running statistics."""
    return is_batch_norm(batch_norm) and isinstance(batch_norm.running_var, Tensor)
