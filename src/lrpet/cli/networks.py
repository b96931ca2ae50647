"""The network that a command is about, and images that it takes."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn


def is_of_library(name: str) -> bool:
    """Tell whether a network comes from timm or torchvision."""
    return ":" in name


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
    _check_runs(network, images, name)
    return images


def usual_size(name: str, network: nn.Module) -> int:
    """Return the side of the images that a network was made for: 224 or its own in timm and torchvision, else 32."""
    return _own_size(network) or 224 if is_of_library(name) else 32


def _check_runs(network: nn.Module, images: Tensor, name: str) -> None:
    """Raise ValueError that names the images' shape if the network does not run on them."""
    import torch

    from lrpet.layers import evaluating

    try:
        with evaluating(network), torch.no_grad():
            network(images)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        said = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
        raise ValueError(
            f"{name} does not run on images of shape {'×'.join(map(str, images.shape))} (batch, channels, height, width): "
            f"give another --image-size or --in-channels. The network says: {said}."
        ) from error


def _own_size(network: nn.Module) -> int | None:
    """Return the image size that a timm network says it was made for."""
    configuration = getattr(network, "pretrained_cfg", None)
    size = configuration.get("input_size") if isinstance(configuration, dict) else None
    return int(size[-1]) if size else None
