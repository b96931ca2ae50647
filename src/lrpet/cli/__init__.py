"""The command line: a file for each of `lrpet train`, `lrpet plan`, `lrpet bench`, `lrpet export`, and the others.

The others are `lrpet profile-latency`, `lrpet search`, `lrpet eval` and `lrpet report`.

Each file declares its command's options, and imports what it needs only when the command runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from lrpet.cli import bench, eval, export, plan, profile_latency, report, search, train
from lrpet.cli.arguments import Command
from lrpet.cli.failures import reported, stdout_is_broken

COMMANDS: tuple[Command, ...] = (
    train.COMMAND,
    plan.COMMAND,
    bench.COMMAND,
    profile_latency.COMMAND,
    search.COMMAND,
    eval.COMMAND,
    export.COMMAND,
    report.COMMAND,
)
EXAMPLES = """\
examples:
  lrpet plan resnet56 --keep 0.43                 what a budget means for every layer
  lrpet train --data digits --keep 0.5 --epochs 3 a first run, without any download
  lrpet eval runs/resnet20-digits-lrpet-0         the accuracy of what it left
  lrpet report runs/resnet20-digits-lrpet-0       all about it, as a web page

'lrpet COMMAND --help' shows the options of a command, and examples."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    0: it is done. 1: a bug in lrpet. 2: bad input, which one message explains. 75: a training was told to stop by SIGTERM or
    SIGUSR1, and wrote a checkpoint. 130: interrupted by Ctrl+C. 141: nobody reads the output.
    """
    try:
        options = _parser().parse_args(arguments)
    except SystemExit:  # after --help or --version, or for a bad command line
        stdout_is_broken()
        raise
    return reported(lambda: options.run(options), debug=options.debug, interrupted=options.interrupted)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lrpet",
        description="Train compact neural networks from scratch, by low-rank projection with energy transfer.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"lrpet {_version()}")
    parser.add_argument("--debug", action="store_true", help="show tracebacks of errors")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_to(commands)
    return parser


def _version() -> str:
    try:
        return version("lrpet")
    except PackageNotFoundError:
        return "(run from a source tree)"
