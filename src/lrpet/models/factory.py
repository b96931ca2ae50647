"""Networks by name, tagged so that each can be made again from its name alone."""

from __future__ import annotations

import contextlib
import difflib
import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from torch import nn

from lrpet.models.googlenet import GoogLeNet
from lrpet.models.resnet import ResNet
from lrpet.models.vgg import VGG16

ZOO: dict[str, Callable[..., nn.Module]] = {
    **{f"resnet{depth}": partial(ResNet, depth) for depth in (8, 20, 32, 56, 110)},
    "vgg16_bn": VGG16,
    "googlenet": GoogLeNet,
}


@dataclass(frozen=True)
class Source:
    """How a network was made; `create` leaves it on the network as `lrpet_source`."""

    name: str
    num_classes: int
    in_channels: int
    arguments: dict[str, Any] = field(default_factory=dict)
    """Further ones for the library's constructor."""

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Any) -> Source:
        """Read what `to_dict` gave. Raises ValueError if `data` is nothing such."""
        kinds = {"name": str, "num_classes": int, "in_channels": int, "arguments": dict}
        if not isinstance(data, dict) or data.keys() != kinds.keys():
            raise ValueError(f"a model's source must have exactly the keys {', '.join(kinds)}; got {data!r}")
        for name, kind in kinds.items():
            if type(data[name]) is not kind:
                raise ValueError(f"a model's source must have {name} as {kind.__name__}; got {data[name]!r}")
        return cls(**data)

    def build(self) -> nn.Module:
        """Such a network, freshly initialised."""
        return create(self.name, num_classes=self.num_classes, in_channels=self.in_channels, arguments=self.arguments)


def names() -> list[str]:
    """The names of lrpet's own networks; `timm:NAME` and `torchvision:NAME` are understood besides."""
    return list(ZOO)


def create(
    name: str,
    *,
    num_classes: int = 10,
    in_channels: int = 3,
    pretrained: bool = False,
    arguments: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Make a network. Its weights come from torch's global random generator: `torch.manual_seed` decides them.

    Args:
        name: One of `names()` (CIFAR forms), `timm:NAME`, or `torchvision:NAME` (classification).
        num_classes: Outputs of the classifier.
        in_channels: Channels of the images; torchvision's networks take 3 only.
        pretrained: With the library's weights (timm: and torchvision: only).
        arguments: More of what the library's own constructor takes, such as {"img_size": 32} (timm: and torchvision: only).

    Raises:
        ValueError: an unknown name, with the nearest known ones, or arguments this network cannot have.
        ImportError: the library is not installed.
    """
    for what, number in {"num_classes": num_classes, "in_channels": in_channels}.items():
        if number < 1:
            raise ValueError(f"{what} must be at least 1; got {number}")
    more = dict(arguments or {})
    library, _, rest = name.rpartition(":")
    if library == "timm":
        model = _timm(rest, num_classes, in_channels, pretrained, more)
    elif library == "torchvision":
        model = _torchvision(rest, num_classes, in_channels, pretrained, more)
    elif library or name not in ZOO:
        raise ValueError(_unknown(name, [*_elsewhere(rest), *difflib.get_close_matches(rest, ZOO)]))
    elif pretrained:
        raise ValueError(f"there are no pretrained weights for {name!r}: leave pretrained off")
    elif more:
        raise ValueError(f"{name!r} takes no further arguments; got {', '.join(more)}")
    else:
        model = ZOO[name](num_classes=num_classes, in_channels=in_channels)
    model.lrpet_source = Source(name, num_classes, in_channels, more)  # type: ignore[assignment]
    return model


def _timm(name: str, num_classes: int, in_channels: int, pretrained: bool, more: dict[str, Any]) -> nn.Module:
    timm = _library("timm")
    known = _library_names("timm", tags="." in name)
    if not timm.is_model(name) or ("." in name and name not in known):
        raise ValueError(_unknown(f"timm:{name}", [f"timm:{near}" for near in difflib.get_close_matches(name, known)]))
    if pretrained and name in known and not timm.is_model_pretrained(name):
        raise ValueError(f"there are no pretrained weights for 'timm:{name}': leave pretrained off")
    with _arguments_of(f"timm:{name}", more):
        model: nn.Module = timm.create_model(
            name, pretrained=pretrained, num_classes=num_classes, in_chans=in_channels, **more
        )
    return model


def _torchvision(name: str, num_classes: int, in_channels: int, pretrained: bool, more: dict[str, Any]) -> nn.Module:
    library = _library("torchvision").models
    known = _library_names("torchvision")
    if name not in known:
        near = [f"torchvision:{near}" for near in difflib.get_close_matches(name, known)]
        raise ValueError(_unknown(f"torchvision:{name}", near))
    if in_channels != 3:
        raise ValueError(f"torchvision:{name} takes images of 3 channels, not in_channels={in_channels}; timm's adapt")
    if pretrained and num_classes != 1000:
        raise ValueError(
            f"torchvision:{name} with pretrained weights has 1000 classes, not {num_classes}; timm's adapt"
        )
    # With their weights these two rescale their input, so they do without them too: one name, one function.
    inception = name in ("googlenet", "inception_v3")
    options: dict[str, Any] = {"transform_input": True} if inception else {}
    options |= more
    if not pretrained:
        options |= {"aux_logits": False, "init_weights": True} if inception else {}
        with _arguments_of(f"torchvision:{name}", more):
            model: nn.Module = library.get_model(name, weights=None, num_classes=num_classes, **options)
        return model
    with _arguments_of(f"torchvision:{name}", more):
        model = library.get_model(name, weights="DEFAULT", **options)
    if name == "inception_v3":  # torchvision refuses aux_logits=False together with weights
        model.aux_logits, model.AuxLogits = False, None  # type: ignore[assignment]
    return model


@contextlib.contextmanager
def _arguments_of(name: str, more: Mapping[str, Any]) -> Iterator[None]:
    """A TypeError about an argument that the constructor does not know, as a ValueError."""
    try:
        yield
    except TypeError as error:
        if not more:
            raise
        raise ValueError(f"{name} does not take the arguments {', '.join(more)}: {error}") from None


def _library(name: str) -> Any:
    """timm or torchvision, imported when first asked for."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        message = f"models called {name}:NAME need {name}: pip install 'lrpet[train]'"
        raise ImportError(message, name=name) from error


def _library_names(library: str, *, tags: bool = False) -> list[str]:
    """The classification networks of timm (`tags`: as ARCHITECTURE.WEIGHTS) or torchvision."""
    module = _library(library)
    known: list[str] = (
        module.list_models(include_tags=tags) if library == "timm" else module.models.list_models(module=module.models)
    )
    return known


def _elsewhere(name: str) -> list[str]:
    """`name` with the prefix of each installed library that has it."""
    found = []
    for library in ("timm", "torchvision"):
        with contextlib.suppress(ImportError):
            if name in _library_names(library):
                found.append(f"{library}:{name}")
    return found


def _unknown(name: str, near: list[str]) -> str:
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return (
        f"there is no model {name!r}.{hint} Known are {', '.join(ZOO)} (lrpet.models.names() lists these), "
        "and every timm:NAME and torchvision:NAME."
    )
