"""`lrpet eval`: score a saved compact network."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Literal

from lrpet.cli.arguments import Command, add_option
from lrpet.train.options import OPTIONS

_OPTIONS = (
    OPTIONS["part"],
    OPTIONS["data"].but(default=None, help=f"{OPTIONS['data'].help} (default: what the network was trained on)"),
    OPTIONS["data_dir"],
    OPTIONS["download"],
    OPTIONS["device"].but(type=Literal["cpu", "cuda"], default="cpu"),
    OPTIONS["batch_size"].but(default=256, help="images or windows in a batch"),
)


def declare(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `lrpet eval`."""
    parser.add_argument(
        "folder",
        type=Path,
        metavar="FOLDER",
        help="run folder, or folder of a compact network, as lrpet.save writes it",
    )
    for option in _OPTIONS:
        add_option(parser, option)


def run(options: argparse.Namespace) -> None:
    """Score the network, and print its accuracy and loss; of a language model, its perplexity too."""
    from lrpet.train.modality import TEXT
    from lrpet.train.run import evaluate, modality_of_saved

    given = {option.name: getattr(options, option.name) for option in _OPTIONS}
    result = evaluate(options.folder, **given)
    perplexity = f", perplexity {result.perplexity:.3f}" if modality_of_saved(options.folder) is TEXT else ""
    print(f"{options.part} accuracy {result.accuracy:.2%}, loss {result.loss:.4f}{perplexity}")


COMMAND = Command(
    name="eval",
    summary="score a saved compact network",
    description="Score the compact network of a run, or of a folder that lrpet.save wrote, on the data it was trained for. "
    "Nothing is written, and nothing downloaded without --download.",
    examples="""\
  lrpet eval runs/resnet20-digits-lrpet-0
  lrpet eval runs/resnet20-digits-lrpet-0 --part validation
  lrpet eval compact/ --data cifar10 --data-dir data""",
    declare=declare,
    run=run,
)
