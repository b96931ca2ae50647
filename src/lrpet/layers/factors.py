"""The two thin layers that take the place of one: their shapes, and how the factors of its matrices fill them."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from lrpet.layers.matrix import Unfolding, bias_of, pads_by_input, shape_of, weight_of

M = TypeVar("M", bound=nn.Module)
_OF_INPUT = ("in_features", "in_channels")
_OF_OUTPUT = ("out_features", "out_channels", "bias", "groups")
_OF_BOTH = ("kernel_size", "stride", "padding", "dilation", "padding_mode")


class Factors(nn.Sequential):
    """Two plain layers, one after the other, in the place of one: W ≈ L·R, R first.

    It answers to `weight`, `bias`, `in_features` and their like as the layer did, for the sake of code that asks a layer for
    its dtype, device or width. `weight` is multiplied out at every look.
    """

    @property
    def weight(self) -> Tensor:
        """L·R in the shape that the replaced layer's weight had. Raises AttributeError for spatial and transposed pairs."""
        first, second = (weight_of(factor) for factor in self)
        if isinstance(self[1], _ConvTransposeNd) or second[0, 0].numel() > 1:
            raise AttributeError("the weight of a spatial or transposed pair is not formed: look at its two factors")
        groups = getattr(self[1], "groups", 1)
        left, right = second.view(groups, -1, second.shape[1]), first.view(groups, second.shape[1], -1)
        return (left @ right).view(len(second), *first.shape[1:])

    def __getattr__(self, name: str) -> Any:
        if name in _OF_INPUT:
            return getattr(self[0], name)
        if name in _OF_OUTPUT:
            return getattr(self[1], name)
        if name in _OF_BOTH:  # where one of the two has the kernel, the other is 1×1
            first, second = getattr(self[0], name), getattr(self[1], name)
            return first if isinstance(first, str) else tuple(map(max, first, second))
        return super().__getattr__(name)


def empty_factors(module: nn.Module, rank: int, unfolding: Unfolding = "channel") -> Factors:
    """Uninitialised factors for `module`, like it in dtype, device, mode and requires_grad; see `lrpet.layers.matrix`."""
    weight, bias = weight_of(module), bias_of(module)
    like: dict[str, Any] = {"device": weight.device, "dtype": weight.dtype}
    if not isinstance(module, _ConvNd):
        shape = shape_of(module)
        first: nn.Module = _uninitialised(nn.Linear, shape.columns, rank, bias=False, **like)
        second: nn.Module = _uninitialised(nn.Linear, rank, shape.rows, bias=bias is not None, **like)
    else:
        dimensions = len(module.kernel_size)
        plain: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1]
        transposed: Any = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[dimensions - 1]
        inner, like["groups"] = rank * module.groups, module.groups
        geometry: dict[str, Any] = {
            name: getattr(module, name) for name in ("kernel_size", "stride", "padding", "dilation", "padding_mode")
        }
        if isinstance(module, _ConvTransposeNd):
            pointwise, whole = (plain, {"kernel_size": 1}), (transposed, geometry)
            geometry["output_padding"] = module.output_padding
            kinds = (pointwise, whole)
        elif unfolding == "spatial":
            kinds = (plain, _along(geometry, 0)), (plain, _along(geometry, 1))
        else:
            kinds = (plain, geometry), (plain, {"kernel_size": 1})
        (kind, arguments), (last_kind, last_arguments) = (_padded(module, *each) for each in kinds)
        first = _uninitialised(kind, module.in_channels, inner, **arguments, bias=False, **like)
        last_arguments = {**last_arguments, "bias": bias is not None, **like}
        second = _uninitialised(last_kind, inner, module.out_channels, **last_arguments)
    pair = Factors(first, second).train(module.training)
    for factor in pair:
        weight_of(factor).requires_grad_(weight.requires_grad)
    if (last := bias_of(second)) is not None and bias is not None:
        last.requires_grad_(bias.requires_grad)
    return pair


@torch.no_grad()
def fill_(pair: Factors, left: Tensor, right: Tensor, bias: Tensor | None) -> None:
    """Give `pair` the factors L, shape (groups, rows/groups, rank), R, (groups, rank, columns), and the replaced bias."""
    first, second = (weight_of(factor) for factor in pair)
    first.copy_(right.reshape(first.shape))
    if isinstance(pair[1], _ConvTransposeNd):
        second.copy_(left.mT.reshape(second.shape))
    else:  # (groups, n/groups·kernel, rank) → (n, rank, kernel)
        kernel = second[0, 0].numel()
        second.copy_(left.reshape(len(second), kernel, -1).mT.reshape(second.shape))
    if bias is not None:
        own = bias_of(pair[1])
        assert own is not None
        own.copy_(bias)


def share_(pair: Factors, owner: Factors) -> None:
    """Let `pair` use the weights of `owner`; its bias stays its own."""
    for mine, theirs in zip(pair, owner, strict=True):
        mine.weight = theirs.weight


def _padded(module: nn.Module, kind: Any, arguments: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The kind of a factor and its arguments, where `module` pads by its input: then the factor with a kernel does."""
    if not pads_by_input(module) or arguments == {"kernel_size": 1}:
        return kind, arguments
    return type(module), {name: value for name, value in arguments.items() if not name.startswith("padding")}


def _along(geometry: dict[str, Any], axis: int) -> dict[str, Any]:
    """The part of a two-dimensional convolution's geometry that lies along one axis."""

    def part(value: Any, neutral: int) -> Any:
        return value if isinstance(value, str) else tuple(v if i == axis else neutral for i, v in enumerate(value))

    neutral = {"kernel_size": 1, "stride": 1, "padding": 0, "dilation": 1}
    return {name: part(geometry[name], each) for name, each in neutral.items()} | {
        "padding_mode": geometry["padding_mode"]
    }


def _uninitialised(kind: type[M], *args: Any, **kwargs: Any) -> M:
    module: M = nn.utils.skip_init(kind, *args, **kwargs)  # type: ignore[no-untyped-call]
    return module
