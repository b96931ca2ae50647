"""Trained weights that a network begins with."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from torch import nn

from lrpet.compact.weights import load_weights


def load_trained(path: Path, network: nn.Module) -> None:
    """Load trained weights into a full-size network.

    `path` is a safetensors file, a folder of `lrpet.save`, or the folder of a dense run. Raises FileNotFoundError if it has
    no weights, and ValueError if they are another network's.
    """
    tried = [path, path / "model.safetensors", path / "compact" / "model.safetensors"]
    file = next((each for each in tried if each.is_file()), None)
    if file is None:
        raise FileNotFoundError(f"weights={path} is no file, nor a folder with model.safetensors in it")
    try:
        load_weights(network, file)
    except (RuntimeError, SafetensorError) as error:
        raise ValueError(f"weights={file} does not hold the weights of this network: {error}") from None
