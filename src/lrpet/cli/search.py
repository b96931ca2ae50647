"""`lrpet search`: search for the ranks of every layer by short trainings."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from lrpet.cli.arguments import Command, add_option
from lrpet.cli.saying import say
from lrpet.train.options import BUDGETS, LIMITS, OPTIONS, RECIPE

if TYPE_CHECKING:
    from lrpet.train.config import Config

_OPTIONS = ("trials", "objective", "sampler", "lowest", "highest", "weight", "groups", "storage", "study")


def declare(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `lrpet search`."""
    parser.add_argument(
        "recipe", type=Path, metavar="RECIPE.yaml", help="recipe of each trial, with a budget and few epochs"
    )
    parser.add_argument(
        "folder",
        type=Path,
        metavar="FOLDER",
        help="folder that the best plan is written to, and that the search is kept in without --storage",
    )
    for name in _OPTIONS:
        add_option(parser, OPTIONS[name])
    add_option(parser, OPTIONS["data_dir"])


def run(options: argparse.Namespace) -> None:
    """Search, and print how to train the best plan."""
    from lrpet.train.config import read_config
    from lrpet.train.console import Console
    from lrpet.train.search import Search, search

    recipe = read_config(options.recipe, {"data_dir": options.data_dir} if options.data_dir else {})
    given = {name: getattr(options, name) for name in _OPTIONS} | {"groups": tuple(options.groups)}
    best = search(Search(recipe, options.folder, **given), console=Console())
    say(f"best: {best.summary()}")
    taken_back = "".join(f" {each}" for each in _taken_back(recipe))
    say(f"train it with: lrpet train {options.recipe}{taken_back} --plan {options.folder / 'plan.json'}")


def _taken_back(recipe: Config) -> list[str]:
    """Return the options that take back what a recipe says in place of a plan."""
    back = []
    for name in (*BUDGETS, *LIMITS):
        option = RECIPE[name]
        if getattr(recipe, name) == option.default:
            continue
        if option.type is bool:
            back.append(f"--no-{name.replace('_', '-')}")
        else:
            back.append(f"{option.flag} {'none' if option.optional else option.default}")
    return back


COMMAND = Command(
    name="search",
    summary="search for the ranks of every layer",
    description="""\
Search for ranks by short trainings. The same command again goes on with the search; several processes that run it at once
share the work, and so do machines that reach one database.""",
    examples="""\
  lrpet search recipe.yaml runs/search --trials 100
  lrpet search recipe.yaml runs/front --objective pareto --groups 'layer1.*' 'layer2.*' 'layer3.*'
  lrpet search recipe.yaml runs/mine --storage postgresql+psycopg://me@db/searches --study resnet20
  lrpet train recipe.yaml --macs none --plan runs/search/plan.json""",
    declare=declare,
    run=run,
    interrupted="interrupted; the same command goes on with the search",
)
