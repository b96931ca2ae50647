"""Two-dimensional convolutions that cost less around their products, for inference on the CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: A 1×1 convolution of fewer multiply-adds runs as a matrix product, which begins sooner than oneDNN's convolution.
PRODUCT = 2**23
#: A convolution of fewer multiply-adds is over before a packed weight saves anything.
PACKED = 2**20


class CpuConv2d(nn.Conv2d):
    """An `nn.Conv2d` that computes what it did, in less time in eager PyTorch on the CPU.

    `nn.Conv2d` brings its weight into oneDNN's layout at every call. Here that is done once for each size of the inputs, and
    small 1×1 convolutions are matrix products. On another device, in another type than float32, with gradients or
    autocast, and wherever it is traced or compiled, this is the plain convolution.
    """

    @staticmethod
    def fits(module: nn.Module) -> bool:
        """Whether the module is a plain convolution that this one computes faster."""
        return (
            type(module) is nn.Conv2d
            and module.groups == 1
            and module.padding_mode == "zeros"
            and not isinstance(module.padding, str)
            and is_plain(module.weight)
            and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
        )

    def forward(self, input: Tensor) -> Tensor:
        """Return the convolution of images of shape (batch, channels, height, width)."""
        if input.dim() != 4 or not is_alone(self.weight, input):
            return super().forward(input)
        macs = _pixels(self, input) * self.weight.numel()
        if macs < PRODUCT and _is_product(self) and input.is_contiguous(memory_format=torch.channels_last):
            return F.linear(input.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)
        if macs < PACKED:
            return super().forward(input)
        geometry = (self.padding, self.stride, self.dilation, self.groups)
        packed = self._packed(input, geometry)
        result: Tensor = torch.ops.mkldnn._convolution_pointwise(input, packed, self.bias, *geometry, "none", [], "")
        return result

    @property
    def packed_bytes(self) -> int:
        """Return the bytes that a packed weight takes beside the plain one."""
        return self.weight.nbytes if "_kept" in self.__dict__ else 0

    def _packed(self, input: Tensor, geometry: tuple[Any, ...]) -> Tensor:
        """Return the weight as oneDNN wants it for inputs of this size; only the last size's is kept."""
        weight = self.weight
        key = (input.shape, weight.data_ptr(), 0 if weight.is_inference() else weight._version)
        kept: tuple[Any, Tensor] | None = self.__dict__.get("_kept")
        if kept is None or kept[0] != key:
            packed = torch.ops.mkldnn._reorder_convolution_weight(weight, *geometry, list(input.shape))
            self.__dict__["_kept"] = kept = (key, packed)
        return kept[1]

    def __getstate__(self) -> dict[str, Any]:
        """Return what is copied and pickled, which a packed weight cannot be."""
        return {name: value for name, value in self.__dict__.items() if name != "_kept"}


def is_alone(weight: Tensor, input: Tensor) -> bool:
    """Whether nothing but the result is wanted of a call: no gradients, no graph, no other type."""
    watched = torch.compiler.is_compiling() or torch._C._is_tracing() or torch.is_autocast_enabled("cpu")
    if watched or not (is_plain(input) and is_plain(weight)) or not input.numel():
        return False
    return not (torch.is_grad_enabled() and (input.requires_grad or weight.requires_grad))


def is_plain(tensor: Tensor) -> bool:
    """Whether this is an ordinary tensor of float32 in the processor's memory."""
    return type(tensor) in (Tensor, nn.Parameter) and tensor.device.type == "cpu" and tensor.dtype == torch.float32


def _is_product(conv: nn.Conv2d) -> bool:
    return conv.kernel_size == (1, 1) and conv.stride == (1, 1) and conv.padding == (0, 0)


def _pixels(conv: nn.Conv2d, input: Tensor) -> int:
    """Return the number of output pixels of all images, nearly: the border does not matter."""
    return input.numel() // input.shape[1] // (conv.stride[0] * conv.stride[1])
