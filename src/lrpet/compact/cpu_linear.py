"""Linear layers that cost less, for inference on the CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lrpet.compact.cpu_convolution import is_alone, is_plain

#: A product of fewer multiply-adds is over before oneDNN has begun, where weights stay in the processor's caches.
CACHED = 2**19
#: What it is where weights come from memory, which oneDNN reads faster.
FROM_MEMORY = 2**16
#: Weights of more bytes, those of all linears together, do not stay in caches.
CACHE = 2**25


class CpuLinear(nn.Linear):
    """An `nn.Linear` that computes what it did, by oneDNN, in less time in eager PyTorch on the CPU.

    On another device, in another type than float32, with gradients or autocast, and wherever it is traced or compiled, this
    is the plain linear.
    """

    least: int
    """The multiply-adds from which oneDNN is taken: `CACHED` or `FROM_MEMORY`."""

    @staticmethod
    def fits(module: nn.Module) -> bool:
        """Whether the module is a plain linear that this one computes faster."""
        return (
            type(module) is nn.Linear
            and "weight" in module._parameters
            and is_plain(module.weight)
            and (module.bias is None or is_plain(module.bias))
            and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        )

    def forward(self, input: Tensor) -> Tensor:
        """Return the product for inputs of shape (…, in_features)."""
        if input.dim() < 2 or not is_alone(self.weight, input) or input.numel() * self.out_features < self.least:
            return super().forward(input)
        result: Tensor = torch.ops.mkldnn._linear_pointwise(input, self.weight, self.bias, "none", [], "")
        return result


def use_onednn_(network: nn.Module) -> None:
    """Turn every plain linear on the CPU into one that oneDNN computes."""
    linears = [module for module in network.modules() if CpuLinear.fits(module)]
    for linear in linears:
        linear.__class__ = CpuLinear  # wherever the network refers to the module
    made = [linear for linear in linears if isinstance(linear, CpuLinear)]
    size = sum({id(linear.weight): linear.weight.nbytes for linear in made}.values())
    for linear in made:
        linear.least = FROM_MEMORY if size > CACHE else CACHED
