"""`lrpet report`: one self-contained page of one or more runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from lrpet.cli.arguments import Command, add_option
from lrpet.cli.saying import say
from lrpet.train.options import OPTIONS

_OUTPUT = OPTIONS["output"].but(
    help="file that the page is written to (default: report.html, in a single run's folder, else in the current one)"
)


def declare(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `lrpet report`."""
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder, of a run that is under way too")
    add_option(parser, _OUTPUT)


def run(options: argparse.Namespace) -> None:
    """Write the page, and print where it is."""
    from lrpet.report.write import write_report

    page = write_report(options.runs, options.output)
    say(f"{page}: {page.stat().st_size / 1e6:.2f} MB, needs no network")


COMMAND = Command(
    name="report",
    summary="make a web page of one or more runs",
    description="""\
Make one self-contained web page of one or more runs, which needs no network: what a run came to, the table of its layers,
and pictures of its scores, singular values, pruned energy, ranks and times. Several runs are compared. A dense run among
them says what the others lost.""",
    examples="""\
  lrpet report runs/first
  lrpet report runs/first runs/second runs/dense --output comparison.html
  lrpet bench runs/first --layers --json runs/first/bench.json    the next report shows these times too""",
    declare=declare,
    run=run,
)
