"""Training steps whose kernels a GPU replays, so that small networks do not wait for the processor to launch them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Replayed(nn.Module):
    """A network in training, recorded as one CUDA graph of its forward pass and one of its backward pass.

    The network itself stays as it is: scoring, saving and projecting it go on as before, and a projection changes what the
    graphs compute with. The images of all batches must have the shape and the memory format of `images`, and gradients must
    be used before the next step overwrites them.

    Args:
        network: A network on a GPU, in train mode.
        images: Shape (batch, channels, height, width), on the GPU; any numbers.
    """

    def __init__(self, network: nn.Module, images: Tensor) -> None:
        super().__init__()
        buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]  # recording runs the network a few times
        own = network.__dict__.get("forward")  # that of an accelerator, around the network's own
        torch.cuda.make_graphed_callables(network, (images,))
        self._forward: Callable[[Tensor], Tensor] = network.__dict__.pop("forward")
        if own is not None:
            network.forward = own
        for buffer, before in buffers:
            buffer.copy_(before)

    def forward(self, images: Tensor) -> Tensor:
        """Replay the forward pass; its backward pass is replayed when it is asked for."""
        return self._forward(images)
