"""Networks by name, tagged so that each can be made again from its name alone."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any

from torch import nn

from lrpet.models.googlenet import GoogLeNet
from lrpet.models.resnet import ResNet
from lrpet.models.vgg import VGG16

ZOO: dict[str, Callable[..., nn.Module]] = {
    **{f"resnet{depth}": partial(ResNet, depth) for depth in (20, 32, 56, 110)},
    "vgg16_bn": VGG16,
    "googlenet": GoogLeNet,
}


@dataclass(frozen=True)
class Source:
    """How a network was made; `create` leaves it on the network as `lrpet_source`."""

    name: str
    num_classes: int
    in_channels: int

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Any) -> Source:
        """Read what `to_dict` gave. Raises ValueError if `data` is nothing such."""
        kinds = {field.name: str if field.name == "name" else int for field in fields(cls)}
        if not isinstance(data, dict) or data.keys() != kinds.keys():
            raise ValueError(f"a model's source must have exactly the keys {', '.join(kinds)}; got {data!r}")
        for name, kind in kinds.items():
            if type(data[name]) is not kind:
                raise ValueError(f"a model's source must have {name} as {kind.__name__}; got {data[name]!r}")
        return cls(**data)

    def build(self) -> nn.Module:
        """Such a network, freshly initialised."""
        return create(self.name, num_classes=self.num_classes, in_channels=self.in_channels)


def names() -> list[str]:
    """The names of lrpet's own networks; `timm:NAME` and `torchvision:NAME` are understood besides."""
    return list(ZOO)


def create(name: str, *, num_classes: int = 10, in_channels: int = 3, pretrained: bool = False) -> nn.Module:
    """Make a network.

    Args:
        name: One of `names()` (CIFAR forms), `timm:NAME`, or `torchvision:NAME` (classification).
        num_classes: Outputs of the classifier.
        in_channels: Channels of the images; torchvision's networks take 3 only.
        pretrained: With the library's weights (timm: and torchvision: only).

    Raises:
        ValueError: an unknown name, with the nearest known ones, or arguments this network cannot have.
        ImportError: the library is not installed.
    """
    library, _, rest = name.rpartition(":")
    if library == "timm":
        model = _timm(rest, num_classes, in_channels, pretrained)
    elif library == "torchvision":
        model = _torchvision(rest, num_classes, in_channels, pretrained)
    elif library or name not in ZOO:
        raise ValueError(_unknown(name, [*ZOO, *(f"{lib}:{rest}" for lib in ("timm", "torchvision"))]))
    elif pretrained:
        raise ValueError(f"there are no pretrained weights for {name!r}: leave pretrained off")
    else:
        model = ZOO[name](num_classes=num_classes, in_channels=in_channels)
    model.lrpet_source = Source(name=name, num_classes=num_classes, in_channels=in_channels)  # type: ignore[assignment]
    return model


def _timm(name: str, num_classes: int, in_channels: int, pretrained: bool) -> nn.Module:
    try:
        import timm
    except ImportError as error:
        raise ImportError("models called timm:NAME need timm: pip install 'lrpet[train]'", name="timm") from error
    if not timm.is_model(name):
        raise ValueError(_unknown(f"timm:{name}", [f"timm:{known}" for known in timm.list_models()]))
    model: nn.Module = timm.create_model(name, pretrained=pretrained, num_classes=num_classes, in_chans=in_channels)
    return model


def _torchvision(name: str, num_classes: int, in_channels: int, pretrained: bool) -> nn.Module:
    try:
        import torchvision
    except ImportError as error:
        message = "models called torchvision:NAME need torchvision: pip install 'lrpet[train]'"
        raise ImportError(message, name="torchvision") from error
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise ValueError(_unknown(f"torchvision:{name}", [f"torchvision:{other}" for other in known]))
    if in_channels != 3:
        raise ValueError(f"torchvision:{name} takes images of 3 channels, not in_channels={in_channels}; timm's adapt")
    if pretrained:
        model: nn.Module = torchvision.models.get_model(name, weights="DEFAULT")
        if num_classes != 1000:
            raise ValueError(
                f"torchvision:{name} with pretrained weights has 1000 classes, not {num_classes}; timm's adapt"
            )
        return model
    heads = {"aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}
    model = torchvision.models.get_model(name, weights=None, num_classes=num_classes, **heads)
    return model


def _unknown(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=4)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return f"there is no model {name!r}.{hint} Known are {', '.join(ZOO)}, timm:NAME and torchvision:NAME."
