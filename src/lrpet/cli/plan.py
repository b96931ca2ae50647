"""`lrpet plan`: print what a budget means for every layer of a network."""

from __future__ import annotations

import argparse
import shutil
import sys
from typing import Literal

from lrpet.cli.arguments import Command, add_option
from lrpet.cli.networks import check_is_of_images, example_images, is_of_library
from lrpet.train.declaration import read_mapping
from lrpet.train.options import LIMITS, OPTIONS

_BUDGET = ("keep", "macs", "params", "bytes", "latency", "latency_table")
_ALLOCATE = OPTIONS["allocate"].but(
    type=Literal["auto", "uniform", "energy", "threshold"],
    help="how the budget is divided among the layers: in equal fractions (uniform), or by the energy of trained weights "
    "(energy, threshold); auto is uniform here, where nothing is trained",
)
_RUNTIME = OPTIONS["runtime"].but(
    default=None,
    help="measure here what layers take on this runtime, once, and factorise those alone whose factors are faster",
)
_IMAGE_SIZE = OPTIONS["image_size"].but(
    help="side of the images in pixels (default: what the network was made for, or 32)"
)


def declare(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `lrpet plan`."""
    parser.add_argument("model", help=OPTIONS["model"].help)
    for name in _BUDGET:
        add_option(parser, OPTIONS[name])
    for option in (_RUNTIME, _ALLOCATE):
        add_option(parser, option)
    for name in (*LIMITS, "weights", "pretrained"):
        add_option(parser, OPTIONS[name])
    add_option(parser, _IMAGE_SIZE)
    for name in ("in_channels", "classes"):
        add_option(parser, OPTIONS[name])
    parser.add_argument("--json", action="store_true", help="print the plan as JSON in place of a table")


def run(options: argparse.Namespace) -> None:
    """Make the plan and print it."""
    import lrpet
    from lrpet import models

    trained = options.pretrained or options.weights is not None
    if options.allocate in ("energy", "threshold") and not trained:
        raise ValueError(
            f"--allocate {options.allocate} looks at the weights, which say nothing before training: "
            "give trained ones, by --weights or --pretrained"
        )
    check_is_of_images(options.model)
    network = models.create(
        options.model,
        num_classes=options.classes or (1000 if is_of_library(options.model) else 10),
        in_channels=options.in_channels,
        pretrained=options.pretrained,
    )
    if options.weights is not None:
        from lrpet.train.weights import load_trained

        load_trained(options.weights, network)
    given = {name: getattr(options, name) for name in (*_BUDGET, "runtime", "allocate", *LIMITS)}
    if options.latency_table is not None:
        given["latency_table"] = lrpet.LatencyTable.load(options.latency_table)
    for name in ("include", "exclude"):
        given[name] = list(given[name]) or None
    if options.overrides:
        given["overrides"] = read_mapping(options.overrides)
    plan = lrpet.plan(network, example_images(options, network), **given)
    if options.json:
        print(plan.to_json())
    else:
        print(plan.table(width=shutil.get_terminal_size().columns if sys.stdout.isatty() else None))


COMMAND = Command(
    name="plan",
    summary="print what a budget means for every layer of a network",
    description="Print what becomes of every layer of a network, and what that saves.",
    examples="""\
  lrpet plan resnet56 --keep 0.43
  lrpet plan resnet20 --macs 0.4 --overrides '{conv1: null, layer3.*: 0.3}'
  lrpet plan timm:vit_tiny_patch16_224 --params 0.5 --include '*.mlp.*'
  lrpet plan torchvision:resnet50 --latency 0.5 --runtime onnxruntime --json > plan.json
  lrpet plan resnet20 --macs 0.3 --weights runs/dense --allocate energy""",
    declare=declare,
    run=run,
)
