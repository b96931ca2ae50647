"""Make networks by name, and mark each so that it can be made again from its name alone."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from torch import nn

from lrpet.models.googlenet import GoogLeNet
from lrpet.models.language import architecture_of, foreign, language_network
from lrpet.models.libraries import holders, timm_network, torchvision_network
from lrpet.models.resnet import ResNet
from lrpet.models.vgg import VGG16

ZOO: dict[str, Callable[..., nn.Module]] = {
    **{f"resnet{depth}": partial(ResNet, depth) for depth in (8, 20, 32, 56, 110)},
    "vgg16_bn": VGG16,
    "googlenet": GoogLeNet,
}


#: Arguments by which timm and torchvision read files or download weights.
FROM_FILES = {
    "cache_dir", "checkpoint_path", "file", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "weights",
    "weights_backbone",
}  # fmt: skip


@dataclass(frozen=True)
class Source:
    """How a network was made; `create` leaves it on the network as `lrpet_source`."""

    name: str
    """A name that `create` knows."""

    num_classes: int
    """Outputs of the classifier; of a language model, the size of its vocabulary."""
    in_channels: int
    """Channels of the images; 1 for a language model."""

    arguments: dict[str, Any] = field(default_factory=dict)
    """More arguments for the constructor of timm or torchvision, or for the config of transformers."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values, which JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Any) -> Source:
        """Read what `to_dict` gave. Raises ValueError if `data` is anything else."""
        kinds = {"name": str, "num_classes": int, "in_channels": int, "arguments": dict}
        if not isinstance(data, dict) or data.keys() != kinds.keys():
            raise ValueError(f"a model's source must have exactly the keys {', '.join(kinds)}; got {data!r}")
        for name, kind in kinds.items():
            if type(data[name]) is not kind:
                raise ValueError(f"a model's source must have {name} as {kind.__name__}; got {data[name]!r}")
        arguments = data["arguments"]
        if files := sorted({*(FROM_FILES & arguments.keys()), *foreign(arguments)}):
            raise ValueError(f"a model's source must not name files or weights to load; got {', '.join(files)}")
        if data["name"].startswith("hf:") and not re.fullmatch(r"hf:[A-Za-z0-9_-]+", data["name"]):
            raise ValueError(f"a model's source must name an architecture, and no folder; got {data['name']!r}")
        return cls(**data)

    def build(self) -> nn.Module:
        """Make the network again, freshly initialised."""
        return create(self.name, num_classes=self.num_classes, in_channels=self.in_channels, arguments=self.arguments)


def names() -> list[str]:
    """List the names of lrpet's own networks. `create` also understands `timm:NAME`, `torchvision:NAME` and `hf:NAME`."""
    return list(ZOO)


def create(
    name: str,
    *,
    num_classes: int = 10,
    in_channels: int = 3,
    pretrained: bool = False,
    arguments: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Make a network.

    Its weights come from torch's global random generator: `torch.manual_seed` decides them.

    Args:
        name: One of `names()` (CIFAR forms), `timm:NAME`, or `torchvision:NAME` (classification). Or `hf:NAME`, a causal
            language model: an architecture of transformers, or a folder with a config.json.
        num_classes: How many outputs the classifier has, or how many tokens the vocabulary.
        in_channels: How many channels the images have. Torchvision's networks take 3 only. Language models have none.
        pretrained: Load the weights that timm or torchvision publishes, or that `hf:NAME` is the folder or repository of.
            lrpet's own networks have none.
        arguments: More arguments for the constructor of timm or torchvision, such as {"img_size": 32}, or values for the
            config of transformers.

    Raises:
        ValueError: The name is unknown (the message names the nearest known ones), or the network cannot have
            these arguments.
        ImportError: timm, torchvision or transformers is not installed.
    """
    for what, number in {"num_classes": num_classes, "in_channels": in_channels}.items():
        if number < 1:
            raise ValueError(f"{what} must be at least 1; got {number}")
    more = dict(arguments or {})
    if name.startswith("hf:"):
        return _language(name.removeprefix("hf:"), num_classes, pretrained=pretrained, more=more)
    library, _, rest = name.rpartition(":")
    if library == "timm":
        model = timm_network(rest, num_classes=num_classes, in_channels=in_channels, pretrained=pretrained, more=more)
    elif library == "torchvision":
        if in_channels != 3:
            raise ValueError(
                f"{name} takes images of 3 channels, not in_channels={in_channels}: take a timm: network, they adapt"
            )
        model = torchvision_network(rest, num_classes=num_classes, pretrained=pretrained, more=more)
    elif library or name not in ZOO:
        raise ValueError(_unknown(name, rest))
    elif pretrained:
        raise ValueError(f"there are no pretrained weights for {name!r}: leave pretrained off")
    elif more:
        raise ValueError(f"{name!r} takes no further arguments; got {', '.join(more)}")
    else:
        model = ZOO[name](num_classes=num_classes, in_channels=in_channels)
    model.lrpet_source = Source(name, num_classes, in_channels, more)  # type: ignore[assignment]
    return model


def _language(name: str, vocabulary: int, *, pretrained: bool, more: dict[str, Any]) -> nn.Module:
    """Make a language model. Its source names the architecture and is whole, whatever folder its config came from."""
    model = language_network(name, vocabulary=None if pretrained else vocabulary, pretrained=pretrained, more=more)
    architecture, values = architecture_of(model)
    config: Any = model.config
    model.lrpet_source = Source(f"hf:{architecture}", config.vocab_size, 1, values)  # type: ignore[assignment]
    return model


def _unknown(name: str, rest: str) -> str:
    near = [*holders(rest), *difflib.get_close_matches(rest, ZOO)]
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return (
        f"there is no model {name!r}.{hint} Known are {', '.join(ZOO)} (lrpet.models.names() lists them), "
        "and every timm:NAME, torchvision:NAME and hf:NAME."
    )
