"""What a person sees while a network trains: one live display, a line for each epoch, and a table at the end."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console as RichConsole
from rich.console import RenderableType
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
#: Where the output is no terminal, a line comes so often within an epoch.
LINE_SECONDS = 60.0
#: At most so many corrupt images are named on the terminal after an epoch.
NAMED = 5
#: {allocate: what will become of a plan that is not settled}.
_DIVIDED_AGAIN = {
    "auto": "If there are batch norms, and projections begin in the second half of training, the first one divides the budget "
    "again, by energy.",
    **{
        how: f"The first projection divides the budget again, by {what} of the trained weights."
        for how, what in (("energy", "the energy"), ("threshold", "the spectra"), ("sensitivity", "the sensitivity"))
    },
}


class _Batches(Sized, Protocol):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]: ...


class Display(Progress):
    """A bar for the whole training, and below it the figures of the moment, each with its label."""

    figures: Mapping[str, str] = {}

    def get_renderables(self) -> Iterable[RenderableType]:
        """Yield the bar, and a line of figures that wraps between them."""
        yield self.make_tasks_table(self.tasks)
        line = Text(overflow="fold")
        for label, value in self.figures.items():
            line.append("   " if line else "").append(f"{label}\u00a0", style="dim").append(
                value.replace(" ", "\u00a0")
            )
        yield line


class Console:
    """Writes to a terminal with a live display, or plain lines where the output is none; nothing if `quiet`."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.rich = RichConsole(quiet=quiet, highlight=False, markup=False)
        self.display: Display | None = None
        self._epochs = 0
        self._modality = IMAGES

    @contextmanager
    def run(self, config: Config, plan: Plan) -> Iterator[None]:
        """Show one run inside the block: its heading, and a live display from then on."""
        self._epochs, self._modality = config.epochs, modality_of(config.data)
        self.rich.print(printable(f"{config.method} {config.model} on {config.data}, in {config.folder}"))
        if plan.ranks:
            self.rich.print(plan.summary(), soft_wrap=not self.rich.is_terminal)
            if plan != plan.settled() or config.allocate == "sensitivity":
                self.rich.print(_DIVIDED_AGAIN[config.allocate], soft_wrap=not self.rich.is_terminal)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("steps"),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
        )
        with Display(*columns, console=self.rich, transient=True) as self.display:
            yield

    def epoch(
        self,
        epoch: int,
        batches: _Batches,
        running: Running,
        projector: Projector,
        *,
        counted: int,
        lr: Callable[[], float],
        done: int = 0,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of an epoch, and show how far it is: twice a second, or by a line a minute if this is no terminal.

        `counted` is the number of images or tokens in a batch, of all processes. `lr` gives the learning rate of the moment.
        `done` is the number of batches that were left out, because a checkpoint has seen them.
        """
        assert self.display is not None
        display, steps = self.display, len(batches)
        if not display.tasks:
            display.add_task("", total=self._epochs * steps)
        task = display.tasks[0].id
        display.update(task, description=f"epoch {epoch + 1}/{self._epochs}", completed=epoch * steps + done)
        begin = shown = time.perf_counter()
        projected, plain = projector.seconds, not self.rich.is_terminal
        for number, batch in enumerate(batches, start=1):
            yield batch
            now = time.perf_counter()
            display.advance(task)
            if now - shown > (LINE_SECONDS if plain else REFRESH_SECONDS):  # figures are read from the device
                passed = now - begin
                display.figures = {
                    **self._modality.shown(running.score()),
                    "learning rate": f"{lr():.3g}",
                    **_projected(projector),
                    "speed": f"{number * counted / passed:,.0f} {self._modality.counted}/s",
                    "projecting": f"{(projector.seconds - projected) / passed:.1%} of the time",
                }
                if plain:
                    at = f"step {done + number:,} of {steps:,}"
                    self.rich.print(f"{epoch + 1:>4}/{self._epochs}  {at}; {_line(display.figures)}", soft_wrap=True)
                shown = now

    def epoch_done(
        self,
        progress: RunProgress,
        projector: Projector,
        trained: Score,
        held_out: Score | None,
        *,
        lr: float,
        rate: float,
    ) -> None:
        """Print a line for the epoch, in which training took `rate` images or tokens per second."""
        parts = [f"train {_line(self._modality.shown(trained))}"]
        if held_out:
            parts.append(f"validation {_line(self._modality.shown(held_out))}")
        parts.append(_line({"lr": f"{lr:.3g}", **_projected(projector)}))
        share = projector.seconds / progress.seconds
        parts.append(f"{progress.seconds:.0f} s, {rate:,.0f} {self._modality.counted}/s, {share:.1%} projecting")
        self.rich.print(f"{progress.epoch:>4}/{self._epochs}  {'; '.join(parts)}", soft_wrap=not self.rich.is_terminal)

    def corrupt(self, corrupt: Mapping[str, str]) -> None:
        """Name images that were left out, {image: what its decoder said}; the first few where there are many."""
        for image, said in list(corrupt.items())[:NAMED]:
            said_so = printable(f"left out: {image} is no readable image: {said}")
            self.rich.print(said_so, soft_wrap=not self.rich.is_terminal)
        if len(corrupt) > NAMED:
            self.rich.print(
                f"left out: {len(corrupt) - NAMED} more images, which metrics.jsonl names",
                soft_wrap=not self.rich.is_terminal,
            )

    def summary(self, summary: dict[str, Any]) -> None:
        """Print the summary as a table."""
        self.rich.print(summary_table([summary]))


def _projected(projector: Projector) -> dict[str, str]:
    """Return the ranks in force, and the energy that the last projection pruned."""
    if not projector.plan.ranks:
        return {}
    if projector.last is None:
        return {"ranks": f"full until step {projector.start:,}"}
    ranks = [layer.rank for layer in projector.last.layers.values()]
    return {
        "ranks": f"{min(ranks)}–{max(ranks)} in {len(ranks)} layers",
        "energy pruned": f"{projector.last.pruned:.3%}",
    }


def _line(figures: Mapping[str, str]) -> str:
    return ", ".join(f"{label} {value}" for label, value in figures.items())


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
