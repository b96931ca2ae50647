"""`lrpet train`: train a network from a recipe, from options, or go on with a run."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrpet.cli.arguments import Command, add_option
from lrpet.cli.saying import say
from lrpet.train.options import GROUPS, RECIPE

if TYPE_CHECKING:
    from lrpet.train.config import Config


def declare(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `lrpet train`."""
    parser.add_argument("recipe", nargs="?", type=Path, metavar="RECIPE.yaml", help="file of options, as YAML")
    parser.add_argument(
        "--resume", action="store_true", help="go on with the run in the folder --output, by the options it began with"
    )
    parser.add_argument("--print-config", action="store_true", help="print all options as YAML, and stop")
    parser.add_argument("--quiet", action="store_true", help="print nothing but warnings and errors")
    for title, options in GROUPS.items():
        group = parser.add_argument_group(title)
        for option in options.values():
            add_option(group, option, checked=False)


def run(options: argparse.Namespace) -> None:
    """Train, and make the run's page; or print the config."""
    config = config_of(options)
    if options.print_config:
        print(config.to_yaml(), end="")
        return
    from lrpet.train.console import Console
    from lrpet.train.run import train

    train(config, resume=options.resume, console=Console(quiet=True) if options.quiet else None)
    if os.environ.get("RANK", "0") == "0":  # of the processes that train together, the one that writes
        _make_page(config.folder, quiet=options.quiet)


def _make_page(folder: Path, *, quiet: bool) -> None:
    """Make the page of a finished run. What keeps it from being made is said, and is no failure of the run."""
    from lrpet.report.write import write_report

    try:
        page = write_report([folder])
    except (OSError, ValueError) as error:
        say(f"lrpet: the run is finished, but its report was not made: {error}", file=sys.stderr)
        return
    if not quiet:
        say(f"report: {page}")


def config_of(options: argparse.Namespace) -> Config:
    """Return the config that the command line stands for: of a recipe, of the run to go on with, or of options alone.

    Raises FileNotFoundError if there is no recipe or run, and ValueError if the options do not fit together.
    """
    from lrpet.train.config import make_config, read_config

    given = {name: _value(name, value) for name, value in vars(options).items() if name in RECIPE}
    if options.recipe is not None:
        return read_config(options.recipe, given)
    return _resumed(given) if options.resume else make_config(given)


def _resumed(given: dict[str, Any]) -> Config:
    """Return the config of the run in its folder, with the given options over it; of these alone where no run began yet."""
    from lrpet.train.config import make_config, read_config

    if not given:
        raise ValueError("--resume alone does not say which run: give its folder, --output RUN")
    folder = Path(given["output"]) if "output" in given else make_config(given).folder
    if (folder / "config.yaml").is_file():
        return read_config(folder / "config.yaml", {**given, "output": folder})
    if given.keys() == {"output"}:
        raise FileNotFoundError(f"there is no run in {folder} to go on with")
    return make_config(given)


def _value(name: str, value: Any) -> Any:
    """Return what an option was given; "none" takes back what a recipe says."""
    option = RECIPE[name]
    return option.nothing if option.optional and value in ("none", ["none"]) else value


COMMAND = Command(
    name="train",
    summary="train a network, factorise it, save and measure it",
    description="""\
Train a network from a recipe, from options, or from a recipe with options over it. 'none' takes back what a recipe says.
With --resume and --output RUN, go on with the run in that folder by the options it began with; options given besides are
put over them, and more --epochs than were finished let a finished run go on.""",
    examples="""\
  lrpet train --data digits --keep 0.5 --epochs 3 --output runs/first
  lrpet train recipes/cifar10-resnet20-cpu.yaml --data-dir data
  lrpet train recipe.yaml --keep none --macs 0.3      another budget than the recipe's
  lrpet train recipes/stdlib-gpt.yaml                 a language model, on Python's own sources
  lrpet train --resume --output runs/first            go on after an interruption
  lrpet train --resume --output runs/first --epochs 6 go on with a finished run""",
    declare=declare,
    run=run,
    interrupted="interrupted; go on from the last checkpoint with: lrpet train --resume --output RUN",
)
