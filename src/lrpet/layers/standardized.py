"""Weight-standardised convolutions: timm's `ScaledStdConv2d`, of which the normaliser-free networks are made."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, nn

from lrpet.layers.convolution import Convolution, Part
from lrpet.layers.matrix import path_of

PATHS = ("timm.layers.std_conv.ScaledStdConv2d", "timm.layers.std_conv.ScaledStdConv2dSame")


class StandardizedConvolution(Convolution):
    """A convolution with the weight Ŵ: each row of W without its mean, at unit variance, times a learned gain.

    What is projected, and what the factors multiply out to, is Ŵ; the factors are plain convolutions. Any projection of Ŵ
    can be written back exactly. Its rows keep mean zero: (1, …, 1) is orthogonal to every row of Ŵ, and with that to its
    leading right singular vectors. The gain takes up the length of each row. The rows of W keep their own variance, so that
    the effective learning rate of W stays.

    Brock, De, Smith: Characterizing signal propagation to close the performance gap in unnormalized ResNets, ICLR 2021.
    """

    computed = True
    plain: tuple[type[nn.Module], ...] = (nn.Conv2d,)
    equivalent: tuple[str, ...] = PATHS

    @staticmethod
    def matches(module: nn.Module) -> bool:
        """Whether the module is one, told by its name so that nothing is imported."""
        return path_of(type(module)) in PATHS

    def matrices(self, tensor: Tensor | None = None) -> Tensor:
        """Return Ŵ, or a tensor of the weight's shape, as matrices of shape (groups, n/groups, c/groups·kh·kw)."""
        if tensor is not None:
            return super().matrices(tensor)
        rows = self.weight.flatten(1)
        variance, mean = torch.var_mean(rows, 1, correction=0, keepdim=True)
        scale = self.module.gain.flatten(1) * self.module.scale * torch.rsqrt(variance + self.module.eps)
        return super().matrices(((rows - mean) * scale).view(self.weight.shape))

    def write_(self, matrices: Tensor) -> None:
        """Set W and the gain so that Ŵ is these matrices. A row of zeros leaves its W and makes its gain zero."""
        rows = matrices.reshape(len(self.weight), -1)
        old, new = (x.std(1, correction=0, keepdim=True) for x in (self.weight.flatten(1), rows))
        gain = self.module.gain
        sign = torch.where(gain.flatten(1) < 0, -1.0, 1.0).to(rows.dtype)
        stretch = sign * torch.where(new > 0, old / new, 0.0)
        root = (old.square() + self.module.eps).sqrt()
        self.weight.copy_(torch.where(new > 0, stretch * rows, self.weight.flatten(1)).view(self.weight.shape))
        gain.copy_(torch.where(new > 0, root / (self.module.scale * stretch), 0.0).view(gain.shape))

    def tensors(self) -> list[Tensor]:
        """Return weight, bias and gain."""
        return [*super().tensors(), self.module.gain]

    @property
    def extra_params(self) -> int:
        """Return the size of the gain, which the factors do without."""
        return int(self.module.gain.numel())

    def _parts(self) -> tuple[Part, Part]:
        geometry: dict[str, Any] = self._geometry()
        if not getattr(self.module, "same_pad", False):
            return (nn.Conv2d, geometry), (nn.Conv2d, {"kernel_size": 1})
        kept = {name: value for name, value in geometry.items() if not name.startswith("padding")}
        return (sys.modules["timm.layers.conv2d_same"].Conv2dSame, kept), (nn.Conv2d, {"kernel_size": 1})
