"""What a person sees while a network trains: a bar with loss, accuracy, speed and the projection's share of the time."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Mapping, Sized
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text
from torch import Tensor

from lrpet import Plan, Projector
from lrpet.planning.text import printable
from lrpet.train.checkpoints import Progress as RunProgress
from lrpet.train.config import Config
from lrpet.train.measure import Running, Score
from lrpet.train.modality import IMAGES, modality_of

REFRESH_SECONDS = 0.5
#: At most so many corrupt images are named on the terminal after an epoch.
NAMED = 5
#: {allocate: what will become of a plan that is not settled}.
_DIVIDED_AGAIN = {
    "auto": "If projections begin in the second half of training, the first one divides the budget again, by energy.",
    **{
        how: f"The first projection divides the budget again, by {what} of the trained weights."
        for how, what in (("energy", "the energy"), ("threshold", "the spectra"), ("sensitivity", "the sensitivity"))
    },
}


class _Batches(Sized, Protocol):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]: ...


class Console:
    """Writes to a terminal, or plain lines to a file."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.rich = RichConsole(quiet=quiet, highlight=False, markup=False)
        self._progress: Progress | None = None
        self._epochs = 0
        self._modality = IMAGES

    @contextmanager
    def run(self, config: Config, plan: Plan) -> Iterator[None]:
        """Show one run inside the block: its heading, and a bar from then on."""
        self._epochs, self._modality = config.epochs, modality_of(config.data)
        self.rich.print(printable(f"{config.method} {config.model} on {config.data}, in {config.folder}"))
        if plan.ranks:
            self.rich.print(plan.summary(), soft_wrap=True)
            if plan != plan.settled() or config.allocate == "sensitivity":
                self.rich.print(_DIVIDED_AGAIN[config.allocate], soft_wrap=True)
        self.rich.print("epoch  loss and accuracy; energy pruned at the last projection; time and speed")
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
        )
        with Progress(*columns, console=self.rich, transient=True) as self._progress:
            yield

    def epoch(
        self, epoch: int, batches: _Batches, running: Running, projector: Projector, *, counted: int, done: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of an epoch, and show a bar; figures are read from the device twice a second at most.

        `counted` is the number of images or tokens in a batch, of all processes. `done` is the number of batches that were
        left out, because a checkpoint has seen them.
        """
        assert self._progress is not None
        task = self._progress.add_task(
            f"epoch {epoch + 1}/{self._epochs}", total=len(batches), completed=done, figures=""
        )
        begin = shown = time.perf_counter()
        projected = projector.seconds
        for number, batch in enumerate(batches, start=1):
            yield batch
            now = time.perf_counter()
            self._progress.advance(task)
            if now - shown > REFRESH_SECONDS:
                share = (projector.seconds - projected) / (now - begin)
                rate = f"{number * counted / (now - begin):,.0f} {self._modality.counted}/s"
                figures = f"{self._modality.shown(running.score())}  {rate}  projecting {share:.1%}"
                self._progress.update(task, figures=figures)
                shown = now
        self._progress.remove_task(task)

    def epoch_done(
        self, progress: RunProgress, projector: Projector, trained: Score, held_out: Score | None, *, rate: float
    ) -> None:
        """Print a line for the epoch, in which training took `rate` images or tokens per second."""
        validation = f"  val {self._modality.shown(held_out)}" if held_out else ""
        share = projector.seconds / progress.seconds
        pruned = f"  pruned {projector.last.pruned:.2%}" if projector.last and projector.last.layers else ""
        self.rich.print(
            f"{progress.epoch:>4}/{self._epochs}  train {self._modality.shown(trained)}{validation}{pruned}"
            f"  {progress.seconds:.0f} s, {rate:,.0f} {self._modality.counted}/s, {share:.1%} projecting",
            soft_wrap=True,
        )

    def corrupt(self, corrupt: Mapping[str, str]) -> None:
        """Name images that were left out, {image: what its decoder said}; the first few where there are many."""
        for image, said in list(corrupt.items())[:NAMED]:
            self.rich.print(printable(f"left out: {image} is no readable image: {said}"), soft_wrap=True)
        if len(corrupt) > NAMED:
            self.rich.print(f"left out: {len(corrupt) - NAMED} more images, which metrics.jsonl names", soft_wrap=True)

    def summary(self, summary: dict[str, Any]) -> None:
        """Print the summary as a table."""
        self.rich.print(summary_table([summary]))


def summary_table(summaries: list[dict[str, Any]]) -> Table:
    """Make a table of a column for the dense network, and one for each summary's; all are of one model."""
    compact = [summary for summary in summaries if summary["method"] != "dense"]
    dense: dict[str, Any] = next((summary for summary in summaries if summary["method"] == "dense"), {})
    # The costs of its dense network were measured in turn with those of its compact one.
    first = (compact or summaries)[0]
    table = Table(title=Text(printable(f"{first['model']} on {first['data']}")), title_justify="left")
    table.add_column("")
    budgets = (summary["budget"].partition(" (")[0] for summary in compact)  # without how it was divided
    for heading in ("dense", *(f"lrpet, {budget}" for budget in budgets)):
        table.add_column(Text(printable(heading)), justify="right")

    def row(label: str, key: str, show: str, scale: float = 1.0, *, dense_key: str | None = None) -> None:
        before = first[dense_key] if dense_key else dense.get(key)
        cells = ["–" if before is None else format(before / scale, show)]
        for summary in compact:
            cut = f" ({summary[key] / before:.0%})" if dense_key and before else ""
            cells.append("–" if summary[key] is None else format(summary[key] / scale, show) + cut)
        table.add_row(label, *cells)

    modality = modality_of(first["data"])
    for part, called in (("test", "test"), ("val", "validation")):
        if f"{part}_perplexity" in first:
            row(f"{called} loss", f"{part}_loss", ".4f")
            row(f"{called} perplexity", f"{part}_perplexity", ".3f")
        row(f"{called} accuracy", f"{part}_accuracy", ".2%")
    row("multiply-adds, M", "macs", ".2f", 1e6, dense_key="macs_dense")
    row("parameters, M", "params", ".3f", 1e6, dense_key="params_dense")
    row("size, MB", "bytes", ".2f", 1e6, dense_key="bytes_dense")
    item, several = modality.item, f"cpu_milliseconds_of_{modality.timed_batch}"
    row(f"CPU latency, 1 {item}, ms", "cpu_milliseconds", ".2f", dense_key="cpu_milliseconds_dense")
    row(f"CPU latency, {modality.timed_batch} {item}s, ms", several, ".2f", dense_key=f"{several}_dense")
    return table


def as_text(table: Table) -> str:
    """Return a table as plain text."""
    console = RichConsole(file=io.StringIO(), width=120)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines()) + "\n"
