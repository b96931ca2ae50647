"""Wrappers around a network: compilation, data parallelism, moving averages."""

from __future__ import annotations

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

#: Wrappers that are told by name, so that nothing is imported: timm's moving averages.
NAMED = ("ModelEma", "ModelEmaV2", "ModelEmaV3")


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the network inside `torch.compile`, data-parallel and moving-average wrappers, with its layers' own names."""
    while True:
        if isinstance(original := getattr(model, "_orig_mod", None), nn.Module):
            model = original
        elif isinstance(model, DataParallel | DistributedDataParallel | AveragedModel) or type(model).__name__ in NAMED:
            inner = model.module
            assert isinstance(inner, nn.Module)
            model = inner
        else:
            return model


def leave_autocast_(model: nn.Module) -> None:
    """Take away the mixed precision that accelerate puts around the forward of a network that it trains."""
    original = vars(model).pop("_original_forward", None)
    if original is not None:
        model.forward = original
        if getattr(original, "__func__", None) is type(model).forward:
            del model.forward  # the class has it
