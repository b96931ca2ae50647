"""`lrpet profile-latency`: measure what layers take, dense and factorised."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lrpet.cli.arguments import Command, add_option
from lrpet.cli.networks import check_is_of_images, example_images
from lrpet.cli.saying import say
from lrpet.train.options import OPTIONS

if TYPE_CHECKING:
    from lrpet.latency.table import LatencyTable

_OPTIONS = (
    OPTIONS["runtime"],
    OPTIONS["device"].but(type=Literal["cpu", "cuda"], default="cpu"),
    OPTIONS["batch_size"].but(default=1, help="images in a pass"),
    OPTIONS["image_size"].but(help="side of the images in pixels (default: what the network was made for, or 32)"),
    OPTIONS["in_channels"],
    OPTIONS["multiple_of"].but(
        help="measure only ranks that are multiples of this number; auto: of those that plans take by default"
    ),
    OPTIONS["seconds"],
)


def declare(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `lrpet profile-latency`."""
    parser.add_argument("model", help=OPTIONS["model"].help)
    parser.add_argument("table", type=Path, metavar="TABLE.json", help="file that the table is written to")
    for option in _OPTIONS:
        add_option(parser, option)


def run(options: argparse.Namespace) -> None:
    """Measure, and write the table. When interrupted, write what was measured, and raise KeyboardInterrupt again."""
    from lrpet import models
    from lrpet.latency.profile import Interrupted, profile_latency

    if not options.table.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {options.table.parent} for the table")
    check_is_of_images(options.model)
    network = models.create(options.model, in_channels=options.in_channels).to(options.device)
    images = example_images(options, network, batch_size=options.batch_size)
    try:
        table = profile_latency(
            network,
            images,
            runtime=options.runtime,
            multiple_of=options.multiple_of,
            seconds=options.seconds,
            told=lambda name: say(f"measuring {name}"),
        )
    except Interrupted as interruption:
        raise KeyboardInterrupt(_kept(interruption.table, options.table)) from None
    _write(table, options.table)
    faster = sum(table.fastest(name) < time for name, time in table.dense.items())
    say(f"{options.table}: {len(table.dense)} layers, of which {faster} were faster at some rank")


def _kept(table: LatencyTable | None, path: Path) -> str:
    """Write what was measured before an interruption, and return what to say about it."""
    if table is None:
        return "interrupted before any layer was measured; nothing was written"
    _write(replace(table, source={**table.source, "interrupted": True}), path)
    return f"interrupted; {path} keeps the times of the {len(table.dense)} layers that were measured"


def _write(table: LatencyTable, path: Path) -> None:
    from lrpet.train.provenance import provenance

    replace(table, source={**table.source, **provenance()}).save(path)


COMMAND = Command(
    name="profile-latency",
    summary="measure what layers take, dense and factorised",
    description="""\
Measure every distinct layer of a network, dense and at a ladder of ranks, on this machine, into a file for plans that are
made elsewhere. Convolutions are measured with their kernels divided as k×k and 1×1, and as k×1 and 1×k. When interrupted,
the layers measured so far are kept. On the machine itself `lrpet plan --runtime` measures what it needs.""",
    examples="""\
  lrpet profile-latency resnet56 table.json
  lrpet profile-latency torchvision:resnet50 table.json --runtime onnxruntime
  lrpet profile-latency resnet20 table.json --device cuda --batch-size 256 --runtime compile""",
    declare=declare,
    run=run,
)
