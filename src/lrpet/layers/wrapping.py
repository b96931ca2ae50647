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


def is_of_transformers(module: nn.Module) -> bool:
    """Whether the module is a model of transformers, told by its name so that nothing is imported."""
    return any(
        kind.__name__ == "PreTrainedModel" and kind.__module__ == "transformers.modeling_utils"
        for kind in type(module).__mro__
    )


def leave_forwards_(model: nn.Module) -> None:
    """Take forwards away that trainers have put on a network, a copy of which is to be a network of its own.

    accelerate puts mixed precision around a forward. TRL puts a forward on models of transformers that holds the model itself,
    so that a copy would go on computing with the original.
    """
    original = vars(model).pop("_original_forward", None)
    if original is not None:
        model.forward = original
        if getattr(original, "__func__", None) is type(model).forward:
            del model.forward  # the class has it
    for module in model.modules():
        if is_of_transformers(module) and "_hf_hook" not in vars(module):  # accelerate's, which moves inputs
            vars(module).pop("forward", None)
