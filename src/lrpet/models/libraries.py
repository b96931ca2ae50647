"""Networks of timm and torchvision. Each library is imported when its first network is asked for."""

from __future__ import annotations

import contextlib
import difflib
import importlib
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn


def timm_network(
    name: str, *, num_classes: int, in_channels: int, pretrained: bool, more: Mapping[str, Any]
) -> nn.Module:
    """Make timm's network `name`, with `more` arguments for its constructor."""
    timm = imported("timm")
    known = known_names("timm", tags="." in name)
    if not timm.is_model(name) or ("." in name and name not in known):
        raise ValueError(_unknown("timm", name, known))
    if pretrained and name in known and not timm.is_model_pretrained(name):
        raise ValueError(f"there are no pretrained weights for 'timm:{name}': leave pretrained off")
    with _arguments_checked(f"timm:{name}", more):
        model: nn.Module = timm.create_model(
            name, pretrained=pretrained, num_classes=num_classes, in_chans=in_channels, **more
        )
    return model


def torchvision_network(name: str, *, num_classes: int, pretrained: bool, more: Mapping[str, Any]) -> nn.Module:
    """Make torchvision's classification network `name`, with `more` arguments for its builder."""
    library = imported("torchvision").models
    known = known_names("torchvision")
    if name not in known:
        raise ValueError(_unknown("torchvision", name, known))
    if pretrained and num_classes != 1000:
        raise ValueError(
            f"torchvision:{name} with pretrained weights has 1000 classes, not {num_classes}: "
            "take a timm: network, they adapt"
        )
    # With their weights these two rescale their input, so they do without them too: one name, one function.
    inception = name in ("googlenet", "inception_v3")
    options: dict[str, Any] = {"transform_input": True} if inception else {}
    if inception and not pretrained:
        options |= {"aux_logits": False, "init_weights": True}
    options |= {"weights": "DEFAULT"} if pretrained else {"weights": None, "num_classes": num_classes}
    with _arguments_checked(f"torchvision:{name}", more):
        model: nn.Module = library.get_model(name, **(options | dict(more)))
    if pretrained and name == "inception_v3":  # torchvision refuses aux_logits=False together with weights
        model.aux_logits, model.AuxLogits = False, None  # type: ignore[assignment]
    return model


def imported(library: str) -> Any:
    """Import timm or torchvision. Raises an ImportError that says how to install the library."""
    try:
        return importlib.import_module(library)
    except ImportError as error:
        message = f"models called {library}:NAME need {library}: pip install 'lrpet[train]'"
        raise ImportError(message, name=library) from error


def known_names(library: str, *, tags: bool = False) -> list[str]:
    """List the classification networks of timm or torchvision; `tags` gives timm's as ARCHITECTURE.WEIGHTS."""
    module = imported(library)
    known: list[str] = (
        module.list_models(include_tags=tags) if library == "timm" else module.models.list_models(module=module.models)
    )
    return known


def holders(name: str) -> list[str]:
    """List the full names under which the installed libraries have a network called `name`."""
    found = []
    for library in ("timm", "torchvision"):
        with contextlib.suppress(ImportError):
            if name in known_names(library):
                found.append(f"{library}:{name}")
    return found


@contextlib.contextmanager
def _arguments_checked(name: str, more: Mapping[str, Any]) -> Iterator[None]:
    """Turn an error about an argument that the constructor does not know, or a layer that it cannot find, into a ValueError."""
    try:
        yield
    except (TypeError, KeyError, AttributeError) as error:
        if not more:
            raise
        raise ValueError(f"{name} does not take the arguments {', '.join(more)}: {error}") from None


def _unknown(library: str, name: str, known: list[str]) -> str:
    near = " or ".join(f"{library}:{match}" for match in difflib.get_close_matches(name, known))
    hint = f" Did you mean {near}?" if near else ""
    listing = "timm.list_models()" if library == "timm" else "torchvision.models.list_models()"
    return f"there is no model '{library}:{name}'.{hint} {listing} gives all names."
