"""The network that a command is about, and images or tokens that it takes."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


def is_of_library(name: str) -> bool:
    """Tell whether a network comes from timm or torchvision."""
    return ":" in name


def check_is_of_images(name: str) -> None:
    """Raise ValueError for the name of a language model, before it is made at its full size."""
    if name.startswith("hf:"):
        raise ValueError(
            f"{name} is a language model, and this command makes networks of images alone: give lrpet bench the folder of a "
            'run on text, or call lrpet.plan in Python, with {"input_ids": tokens, "use_cache": False}'
        )


def example_images(options: argparse.Namespace, network: nn.Module, *, batch_size: int = 1) -> Tensor:
    """Return images of the size and channels that the command line names, checked to be what `network` takes.

    Without --image-size the size is the one that the network was made for: 224 or its own for timm and torchvision, 32 for
    lrpet's networks. Raises ValueError if the network does not run on such images.
    """
    side = options.image_size or usual_size(options.model, network)
    return images_for(network, options.model, (batch_size, options.in_channels, side, side))


def images_for(network: nn.Module, name: str, shape: tuple[int, ...]) -> Tensor:
    """Return images of this shape on the network's device. Raises ValueError if the network does not run on them."""
    import torch

    images = torch.randn(*shape, device=next(network.parameters()).device)
    check_runs(network, images, name)
    return images


def usual_size(name: str, network: nn.Module) -> int:
    """Return the side of the images that a network was made for: 224 or its own in timm and torchvision, else 32."""
    return _own_size(network) or 224 if is_of_library(name) else 32


def check_runs(network: nn.Module, inputs: Any, name: str) -> None:
    """Raise ValueError that names the inputs' shape if the network does not run on them."""
    import torch

    from lrpet.layers import evaluating
    from lrpet.layers.inputs import Inputs

    given = Inputs.of(inputs)
    try:
        with evaluating(network), torch.no_grad():
            given.run(network)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        said = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
        shape = "×".join(map(str, given.tensors[0].shape))
        what = (
            f"windows of tokens of shape {shape} (batch, length): name networks of text alone, or of images alone"
            if given.kwargs
            else f"images of shape {shape} (batch, channels, height, width): give another --image-size or --in-channels"
        )
        raise ValueError(f"{name} does not run on {what}. The network says: {said}.") from error


def _own_size(network: nn.Module) -> int | None:
    """Return the image size that a timm network says it was made for."""
    configuration = getattr(network, "pretrained_cfg", None)
    size = configuration.get("input_size") if isinstance(configuration, dict) else None
    return int(size[-1]) if size else None
