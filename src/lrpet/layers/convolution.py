"""Convolutions: whole kernels in the first factor, kernels divided by axis, and transposed ones."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from lrpet.layers.factors import FactorPair
from lrpet.layers.matrix import Call, MatrixLayer, MatrixShape, Unfolding, path_of, uninitialised

_GEOMETRY = ("kernel_size", "stride", "padding", "dilation", "padding_mode")
#: timm's convolution that pads as TensorFlow does, by the size of its input.
PADS_BY_INPUT = ("timm.layers.conv2d_same.Conv2dSame",)

Part = tuple[Any, dict[str, Any]]
"""A factor: its class, and the arguments that give its geometry."""


class Convolution(MatrixLayer):
    """A convolution in one to three dimensions, its kernel in the first factor."""

    plain: tuple[type[nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    equivalent: tuple[str, ...] = PADS_BY_INPUT

    def _shape(self) -> MatrixShape:
        """Return n rows and c/g·k… columns."""
        n, c, *kernel = self.weight.shape
        return MatrixShape(n, c * _product(kernel), self.module.groups)

    @property
    def channels(self) -> int:
        """Return the number of filters."""
        channels: int = self.module.out_channels
        return channels

    def matrices(self, tensor: Tensor | None = None) -> Tensor:
        """Return a row for each filter, shape (groups, n/groups, c/groups·k…)."""
        weight = self.weight if tensor is None else tensor
        return weight.flatten(1).view(self.module.groups, -1, weight[0].numel())

    def tensor(self, matrices: Tensor) -> Tensor:
        """Return the filters again."""
        return matrices.reshape(self.weight.shape)

    def positions(self, call: Call) -> int:
        """Return the number of output pixels of all images."""
        return call.output.numel() // max(1, self.channels)

    def empty_factors(self, rank: int) -> FactorPair:
        """Return two convolutions, the inner channels g·r."""
        (first_kind, first), (second_kind, second) = self._parts()
        inner, like = rank * self.module.groups, {**self._like(), "groups": self.module.groups}
        has_bias = self.bias is not None
        return self._paired(
            uninitialised(first_kind, self.module.in_channels, inner, bias=False, **first, **like),
            uninitialised(second_kind, inner, self.module.out_channels, bias=has_bias, **second, **like),
        )

    def _parts(self) -> tuple[Part, Part]:
        """Return the kernel's convolution with the original's geometry, then a 1×1 convolution."""
        return self._padded(self._geometry()), (self._kind(), {"kernel_size": 1})

    def _kind(self) -> Any:
        return (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(self.module.kernel_size) - 1]

    def _geometry(self) -> dict[str, Any]:
        return {name: getattr(self.module, name) for name in _GEOMETRY}

    def _padded(self, arguments: dict[str, Any]) -> Part:
        """Return a factor with a kernel: one that pads by its input, where the original does."""
        kind = type(self.module)
        if path_of(kind) not in PADS_BY_INPUT:
            return self._kind(), arguments
        return kind, {name: value for name, value in arguments.items() if not name.startswith("padding")}


class SpatialConvolution(Convolution):
    """A two-dimensional convolution whose kernel is divided: kh×1 in the first factor, 1×kw in the second."""

    unfolding: Unfolding = "spatial"
    plain = (nn.Conv2d,)

    def _shape(self) -> MatrixShape:
        """Return n·kw rows and c/g·kh columns."""
        n, c, kh, kw = self.weight.shape
        return MatrixShape(n * kw, c * kh, self.module.groups)

    def matrices(self, tensor: Tensor | None = None) -> Tensor:
        """Return a row for each filter and kernel column, shape (groups, n/groups·kw, c/groups·kh)."""
        weight = self.weight if tensor is None else tensor
        return weight.permute(0, 3, 1, 2).reshape(self.module.groups, -1, self.shape.columns)

    def tensor(self, matrices: Tensor) -> Tensor:
        """Return the filters again."""
        _, c, kh, kw = self.weight.shape
        return matrices.reshape(-1, kw, c, kh).permute(0, 2, 3, 1)

    def first_positions(self, call: Call) -> int:
        """Return the positions of a kh×1 convolution, which only the vertical stride makes fewer."""
        return call.output[:-1].numel() // max(1, self.channels) * call.inputs[0][-1]

    def _parts(self) -> tuple[Part, Part]:
        return self._padded(self._along(0)), self._padded(self._along(1))

    def _along(self, axis: int) -> dict[str, Any]:
        """Return the part of the geometry that lies along one axis."""

        def part(value: Any, neutral: int) -> Any:
            return value if isinstance(value, str) else tuple(v if i == axis else neutral for i, v in enumerate(value))

        neutral = {"kernel_size": 1, "stride": 1, "padding": 0, "dilation": 1}
        return {name: part(getattr(self.module, name), each) for name, each in neutral.items()} | {
            "padding_mode": self.module.padding_mode
        }


class TransposedConvolution(Convolution):
    """A transposed convolution in one to three dimensions, its kernel in the second factor."""

    plain = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    equivalent = ()

    def _shape(self) -> MatrixShape:
        """Return n·k… rows and c/g columns."""
        c, n, *kernel = self.weight.shape
        groups = self.module.groups
        return MatrixShape(n * groups * _product(kernel), c // groups, groups)

    def matrices(self, tensor: Tensor | None = None) -> Tensor:
        """Return a row for each output channel and kernel element, shape (groups, n/groups·k…, c/groups)."""
        weight = self.weight if tensor is None else tensor
        return weight.flatten(1).view(self.shape.groups, self.shape.columns, -1).mT

    def tensor(self, matrices: Tensor) -> Tensor:
        """Return the filters again."""
        return matrices.mT.reshape(self.weight.shape)

    def positions(self, call: Call) -> int:
        """Return the number of input pixels of all images."""
        channels: int = self.module.in_channels
        return call.inputs[0].numel() // max(1, channels)

    def _parts(self) -> tuple[Part, Part]:
        transposed = self.plain[len(self.module.kernel_size) - 1]
        geometry = {**self._geometry(), "output_padding": self.module.output_padding}
        return (self._kind(), {"kernel_size": 1}), (transposed, geometry)


def is_convolution(module: nn.Module) -> bool:
    """Whether the module is a convolution of any kind, whose channels are dimension 1."""
    return isinstance(module, _ConvNd)


def _product(sizes: list[int]) -> int:
    result = 1
    for size in sizes:
        result *= size
    return result
