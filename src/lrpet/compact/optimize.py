"""`lrpet.optimize`: a copy of a network that computes the same in less time, for inference."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from lrpet.compact.cpu_convolution import CpuConv2d
from lrpet.compact.cpu_linear import use_onednn_
from lrpet.compact.folding import fold_batch_norms_
from lrpet.layers.sound import check_network
from lrpet.layers.wrapping import unwrapped


def optimize(model: nn.Module, example_inputs: Any) -> nn.Module:
    """Return a copy of a network, in eval mode, that computes what the network does in less time.

    Dense and compact networks gain alike, but a compact one has more layers, and so more around its products:

    - Batch norms become part of the layers before them; in a factor pair, of the second factor.
    - On the CPU, weights of convolutions are kept as NHWC (channels last), which oneDNN computes in. Activations follow.
    - In eager PyTorch on the CPU in float32, weights are packed for oneDNN at the first call, and small 1×1 convolutions run
      as matrix products. Linears run in oneDNN, unless they are small. Whatever compiles, traces or exports the copy meets
      plain layers.

    The copy is for inference: none of its parameters requires gradients. `torch.compile`, `torch.export` and `lrpet.export`
    take it. `lrpet.save` does not, because its layers are no longer those of the plan: save the compact network, and
    optimise what `lrpet.load` returns.

    Args:
        model: A network, compact or not; untouched.
        example_inputs: A tensor, a tuple of positional arguments, or a mapping of keyword arguments. One pass shows which
            batch norm takes which layer's output, and that nothing else does. Inputs of other sizes work too.

    Returns:
        The copy. Its `lrpet_folded` has the names of the batch norms that are gone.

    Raises ValueError if a weight or a batch norm holds NaN or Inf, or a negative variance.
    """
    model = unwrapped(model)
    check_network(model, "it cannot be optimised")
    network = copy.deepcopy(model).eval().requires_grad_(False)
    gone = fold_batch_norms_(network, example_inputs)
    network.lrpet_folded = (*getattr(network, "lrpet_folded", ()), *gone)  # type: ignore[assignment]
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and _is_on_cpu(module):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
            if CpuConv2d.fits(module):
                module.__class__ = CpuConv2d  # wherever the network refers to the module
    use_onednn_(network)
    return network.eval()  # what is left of batch norms is new


def _is_on_cpu(module: nn.Conv2d | nn.ConvTranspose2d) -> bool:
    return "weight" in module._parameters and module.weight.device.type == "cpu" and not module.weight.is_quantized
