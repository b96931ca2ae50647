"""A grid of results, each computed in a process of its own. Results that are there are skipped; cut-off runs go on.

    python -m benchmarks.accuracy.grid RESULTS --model resnet20 --data cifar10 --data-dir DATA --epochs 12 \\
        --methods dense lrpet factors svd_retrain --keep 0.38 0.2 --seeds 0 1 2 [--jobs 1] [--dry-run]

With --jobs several run side by side. That pays for small networks on a GPU, and on a CPU with as many jobs as it has cores and
one thread for each (OMP_NUM_THREADS=1). A failed run is reported, and the others go on.

With --minutes the runs are told to stop in time. They write checkpoints, so that the next call goes on where they are.
"""

from __future__ import annotations

import argparse
import itertools
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.accuracy.cell import add_network, add_options, options_of
from benchmarks.accuracy.methods import METHODS
from benchmarks.accuracy.run import Cell
from benchmarks.accuracy.store import Store
from benchmarks.script import parser_of
from lrpet.train.preemption import PreemptedError

#: The exit status of a run that was told to stop, and wrote a checkpoint.
STOPPED = PreemptedError.exit_status


def cells(given: argparse.Namespace) -> list[Cell]:
    """List the grid's cells, seeds outermost, so that a table of one seed is whole early."""
    chosen: dict[Cell, None] = {}
    for seed, keep, method in itertools.product(given.seeds, given.keep, given.methods):
        fraction = None if method == "dense" else keep
        chosen[Cell(given.model, given.data, method, fraction, given.epochs, seed)] = None
    return list(chosen)


def command(cell: Cell, given: argparse.Namespace) -> list[str]:
    """Return the command that computes one cell."""
    words = [sys.executable, "-m", "benchmarks.accuracy.cell", str(given.results), "--work", str(given.work)]
    for name, value in {**options_of(given), **vars(cell)}.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            words.append(flag)
        elif value is not None and value is not False:
            words += [flag, str(value)]
    return words


def show(chosen: Iterable[Cell], results: Path, console: Console) -> None:
    """Print which of the cells have a result."""
    there = Store(results).names()
    table = Table(title=str(results), title_justify="left")
    for heading in ("result", "state"):
        table.add_column(heading)
    for cell in chosen:
        table.add_row(cell.name, "there" if cell.name in there else "to do")
    console.print(table)


def main(argv: list[str] | None = None) -> int:
    parser = parser_of(__doc__)
    add_options(parser)
    add_network(parser)
    add_running(parser)
    parser.add_argument("--methods", nargs="+", choices=METHODS, required=True)
    parser.add_argument("--keep", nargs="+", type=float, default=[0.38])
    given = parser.parse_args(argv)
    return compute(cells(given), given)


def add_running(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how many cells are computed, and for how long."""
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--jobs", type=int, default=1, help="number of runs side by side")
    parser.add_argument("--minutes", type=float, help="after so many, tell runs to write checkpoints and stop")
    parser.add_argument("--dry-run", action="store_true", help="only print what is there and what is to do")


def compute(chosen: Sequence[Cell], given: argparse.Namespace) -> int:
    """Compute the cells that have no result yet, and return the exit status: 0 if all have one now."""
    console = Console()
    show(chosen, given.results, console)
    if given.dry_run:
        return 0
    there = Store(given.results).names()
    missing = [cell for cell in chosen if cell.name not in there]
    end = None if given.minutes is None else time.monotonic() + 60 * given.minutes
    with ThreadPoolExecutor(given.jobs) as pool:
        codes = list(pool.map(lambda cell: computed(command(cell, given), end), missing))
    show(chosen, given.results, console)
    for cell, code in zip(missing, codes, strict=True):
        if code:
            console.print(
                f"[yellow]to go on with:[/] {cell.name}" if code == STOPPED else f"[red]failed:[/] {cell.name}"
            )
    return max((code for code in codes if code != STOPPED), default=0) or max(codes, default=0)


def computed(words: list[str], end: float | None) -> int:
    """Run a command, tell it to stop at `end` (of `time.monotonic`), and return its exit status."""
    if end is not None and time.monotonic() >= end:
        return STOPPED
    with subprocess.Popen(words) as process:
        try:
            return process.wait(None if end is None else end - time.monotonic())
        except subprocess.TimeoutExpired:
            process.terminate()
            code = process.wait()
            return STOPPED if code == -signal.SIGTERM else code  # it may not have begun


if __name__ == "__main__":
    sys.exit(main())
