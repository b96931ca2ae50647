"""Recognise a network that timm or torchvision made, so that it can be made again from its name."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd
from torch.overrides import TorchFunctionMode

from lrpet.models.factory import Source
from lrpet.models.libraries import imported, known_names

PLAIN = (bool, int, float, str, tuple, list, type(None))


def source_of(model: nn.Module) -> Source | None:
    """Return how `model` can be made again by name, or None where that is not certain.

    A network that `create` made carries the answer. A network of timm or torchvision is compared with a fresh one that
    takes no memory: the names and shapes of all weights, and the classes and settings of all modules, must be equal.
    Dropout and stochastic depth may differ, since they act in training only. Nothing is downloaded.
    """
    source = getattr(model, "lrpet_source", None)
    if isinstance(source, Source):
        return source
    library = type(model).__module__.partition(".")[0]
    if library == "timm":
        candidates = _timm_candidates(model)
    elif library == "torchvision":
        candidates = _torchvision_candidates(model)
    else:
        return None
    return next((candidate for candidate in candidates if _makes(candidate, model)), None)


def _timm_candidates(model: nn.Module) -> Iterator[Source]:
    """Yield what timm's own record on the network says, without and with its weights' tag and its image size."""
    record = getattr(model, "pretrained_cfg", None)
    classes = getattr(model, "num_classes", None)
    if not isinstance(record, Mapping) or not isinstance(classes, int) or not record.get("architecture"):
        return
    channels = _channels(model, record.get("first_conv"))
    architecture, tag = record["architecture"], record.get("tag")
    size = getattr(getattr(model, "patch_embed", None), "img_size", None)
    sizes: list[dict[str, Any]] = [{}]
    if isinstance(size, tuple):
        sizes.append({"img_size": size[0] if len(set(size)) == 1 else list(size)})
    for name in [architecture, f"{architecture}.{tag}"] if tag else [architecture]:
        for arguments in sizes:
            yield Source(f"timm:{name}", classes, channels, arguments)


def _channels(model: nn.Module, first: object) -> int:
    """Return the channels of the images, read off the first convolution, or 3 where timm does not say which it is."""
    with contextlib.suppress(AttributeError):
        layer = model.get_submodule(first) if isinstance(first, str) else None
        if isinstance(layer, nn.Conv2d):
            return layer.in_channels
    return 3


def _torchvision_candidates(model: nn.Module) -> Iterator[Source]:
    """Yield the builders in the file of the network's class whose published parameter count is that of `model`."""
    library = imported("torchvision").models
    classifiers = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    if not classifiers:
        return
    last = classifiers[-1]
    classes, per_class = last.weight.shape[0], last.weight[0].numel() + (last.bias is not None)
    # Published counts are those of networks with 1000 classes.
    count = sum(parameter.numel() for parameter in model.parameters()) + (1000 - classes) * per_class
    arguments = {"transform_input": model.transform_input} if hasattr(model, "transform_input") else {}
    for name in known_names("torchvision"):
        if library.get_model_builder(name).__module__ != type(model).__module__:
            continue
        if any(weights.meta["num_params"] == count for weights in library.get_model_weights(name)):
            yield Source(f"torchvision:{name}", classes, 3, arguments)


def _makes(source: Source, model: nn.Module) -> bool:
    """Whether `source` builds a network that differs from `model` in the values of its weights only."""
    try:
        with torch.random.fork_rng(devices=[]), _WithoutMemory():
            made = source.build()
    except Exception:  # whatever a foreign constructor raises, the network cannot be made by this name
        return False
    return _shapes(made) == _shapes(model) and _settings(made) == _settings(model)


class _WithoutMemory(TorchFunctionMode):
    """Put uninitialised tensors, which weights begin as, on the meta device; all else is computed as ever."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def _settings(model: nn.Module) -> dict[str, tuple[type, dict[str, Any]]]:
    """Give every module's class and plain settings, leaving out what acts in training only."""
    return {
        name: (type(module), {key: value for key, value in vars(module).items() if _is_setting(key, value)})
        for name, module in model.named_modules()
        if not _is_dropout(module)
    }


def _is_setting(key: str, value: object) -> bool:
    training = key in ("training", "grad_checkpointing") or "drop" in key
    return isinstance(value, PLAIN) and not training and not key.startswith("_")


def _is_dropout(module: nn.Module) -> bool:
    """Whether `module` passes its input on in eval mode."""
    return isinstance(module, nn.Identity | _DropoutNd) or type(module).__name__ in ("DropPath", "StochasticDepth")
