"""`lrpet bench`: time networks against each other."""

from __future__ import annotations

import argparse
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lrpet.cli.arguments import Command, add_option
from lrpet.cli.networks import check_is_of_images, check_runs, images_for, is_of_library, usual_size
from lrpet.cli.saying import say
from lrpet.train.declaration import read_mapping
from lrpet.train.options import OPTIONS

if TYPE_CHECKING:
    from torch import nn

_BUDGET = ("keep", "macs", "params", "bytes", "latency")
_DIVISION = ("min_rank", "max_rank", "multiple_of", "min_saving", "overrides", "include", "exclude", "unfolding")
_CONDITIONS = ("runtimes", "batch_sizes", "threads", "dtype", "channels_last", "cuda_graphs", "layers", "as_is")
_LATENCY = OPTIONS["latency"].but(
    help="budget: milliseconds of one pass, or a fraction of the dense network's, measured on the first of --runtimes"
)
_SECONDS = OPTIONS["seconds"].but(
    default=1.0, help="time that each network is measured on each runtime at each batch size"
)
_IMAGE_SIZE = OPTIONS["image_size"].but(
    help="side of the images in pixels (default: what the network was made or trained for, or 32)"
)


def declare(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `lrpet bench`."""
    parser.add_argument(
        "networks",
        nargs="+",
        metavar="NETWORK_OR_FOLDER",
        help="name of a network, as in a recipe; run folder; or folder of a compact network, as lrpet.save writes it",
    )
    for name in (*_BUDGET, *_DIVISION, *_CONDITIONS):
        add_option(parser, _LATENCY if name == "latency" else OPTIONS[name])
    add_option(parser, OPTIONS["device"].but(type=Literal["cpu", "cuda"], default="cpu"))
    for option in (_SECONDS, _IMAGE_SIZE, OPTIONS["in_channels"], OPTIONS["classes"]):
        add_option(parser, option)
    parser.add_argument("--json", type=Path, metavar="PATH", help="file that the numbers are written to")
    parser.add_argument(
        "--plot", type=Path, metavar="PATH", help="file that a picture is written to, such as bench.png"
    )


def run(options: argparse.Namespace) -> None:
    """Measure, print the table, and write what was asked for."""
    import torch

    from lrpet.latency.bench import bench
    from lrpet.latency.picture import check
    from lrpet.train.provenance import provenance

    for path in (options.json, options.plot):
        if path is not None and not path.parent.is_dir():
            raise FileNotFoundError(f"there is no folder {path.parent} for {path.name}")
    if options.plot is not None:
        check(options.plot)
    networks, inputs = _contenders(options)
    result = bench(
        networks,
        inputs,
        seconds=options.seconds,
        device=options.device,
        dtype=None if options.dtype == "float32" else getattr(torch, options.dtype),
        told=lambda what: say(f"measuring {what}"),
        optimized=not options.as_is,
        **{name: getattr(options, name) for name in _CONDITIONS if name not in ("dtype", "as_is")},
    )
    source = {name: value for name, value in provenance().items() if name in ("command", "commit")}
    result = replace(result, machine={**result.machine, **source})
    say(f"\n{result}")
    if options.json is not None:
        result.save(options.json)
    if options.plot is not None:
        result.plot(options.plot)


@dataclass(frozen=True)
class _Given:
    """One of the networks that the command line names, and the images or windows of tokens that it takes."""

    name: str
    network: nn.Module
    in_channels: int = 1
    image_size: int = 1
    context: int | None = None
    """Tokens in a window, for a language model."""

    @classmethod
    def of(cls, text: str, options: argparse.Namespace) -> _Given:
        """Read a folder's compact network, or make a network by name."""
        import lrpet
        from lrpet import models
        from lrpet.train.data.metadata import trained_on

        if Path(text).is_dir():
            network = lrpet.load(text)
            saved = Path(text) / "compact"
            saved = saved if saved.is_dir() else Path(text)
            metadata = trained_on(saved, "context", "in_channels", "image_size")
            if "context" in metadata:
                return cls(text, network, context=metadata["context"])
            source: Any = network.lrpet_source
            channels = metadata.get("in_channels", source.in_channels)
            side = options.image_size or metadata.get("image_size") or usual_size(source.name, network)
            return cls(text, network, channels, side)
        check_is_of_images(text)
        network = models.create(
            text,
            num_classes=options.classes or (1000 if is_of_library(text) else 10),
            in_channels=options.in_channels,
        )
        return cls(text, network, options.in_channels, options.image_size or usual_size(text, network))

    def inputs(self) -> Any:
        """Return an image or a window, checked to be what the network takes."""
        if self.context is None:
            return images_for(self.network, self.name, (1, self.in_channels, self.image_size, self.image_size))
        import torch

        from lrpet.train.modality import TEXT

        windows = TEXT.arguments(torch.zeros(1, self.context, dtype=torch.long))
        check_runs(self.network, windows, self.name)
        return windows


def _contenders(options: argparse.Namespace) -> tuple[dict[str, nn.Module], Any]:
    """Return {name: network}, first the one that others are compared with, and an image or a window that they take."""
    asked = [name for name in (*_BUDGET, *_DIVISION) if getattr(options, name) != OPTIONS[name].default]
    budgets = [name for name in asked if name in _BUDGET]
    folders = [text for text in options.networks if Path(text).is_dir()]
    if asked and (len(options.networks) > 1 or folders):
        raise ValueError(
            f"{OPTIONS[asked[0]].flag} is for the name of one network, whose compact form it makes; "
            f"got {', '.join(options.networks)}"
        )
    if asked and not budgets:
        raise ValueError(f"{OPTIONS[asked[0]].flag} bounds the ranks of a budget: give one, such as --macs 0.45")
    if len(set(options.networks)) < len(options.networks):
        raise ValueError(f"a network is named twice: {', '.join(options.networks)}")
    given = [_Given.of(text, options) for text in options.networks]
    first = given[0]
    inputs = first.inputs()
    if len(given) > 1:
        for each in given[1:]:
            check_runs(each.network, inputs, each.name)
        return {each.name: each.network for each in given}, inputs
    if folders:
        source: Any = first.network.lrpet_source
        return {"dense": source.build(), "compact": first.network}, inputs
    if not budgets:
        return {first.name: first.network}, inputs
    return {"dense": first.network, "compact": _compact(first.network, inputs, options)}, inputs


def _compact(network: nn.Module, images: Any, options: argparse.Namespace) -> nn.Module:
    """Return the compact form of a network at the budget that the command line gives, and print what the plan saves."""
    import lrpet

    given = {name: getattr(options, name) for name in (*_BUDGET, *_DIVISION)}
    for name in ("include", "exclude"):
        given[name] = list(given[name]) or None
    given["overrides"] = read_mapping(options.overrides) if options.overrides else None
    runtime = None if options.latency is None else options.runtimes[0]
    plan = lrpet.plan(network, images, **given, runtime=runtime)
    say(plan.summary())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # weights that are cut off: time does not depend on them
        return lrpet.factorize(network, plan)


COMMAND = Command(
    name="bench",
    summary="time networks against each other",
    description="""\
Time networks against each other on this machine, and say how much of the cut in multiply-adds is a cut in time. One name
with a budget is compared with its compact form, with random weights: they do not change the time. One folder is compared with
its full-size network. Of several networks, the first is what the others are compared with.""",
    examples="""\
  lrpet bench torchvision:resnet18 --macs 0.45 --runtimes eager onnxruntime openvino --batch-sizes 1 16
  lrpet bench runs/resnet20-digits-lrpet-0 --json bench.json --plot bench.png
  lrpet bench resnet20 resnet56 --threads 1
  lrpet bench timm:vit_small_patch16_224 --macs 0.5 --layers
  lrpet bench torchvision:resnet50 --macs 0.45 --device cuda --dtype bfloat16 --channels-last --batch-sizes 1 64 256""",
    declare=declare,
    run=run,
)
