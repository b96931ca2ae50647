"""What a run came to, in numbers and in one sentence."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lrpet.report.runs import Run

WEIGHTS = "model.safetensors"
#: Quartiles further apart than this part of the median are a sign of other work on the machine.
WIDE = 0.3


@dataclass(frozen=True)
class Fact:
    """A number with its label, and what it is compared with."""

    label: str
    value: str
    detail: str = ""


@dataclass(frozen=True)
class Times:
    """What so many items take in a runtime, dense and compact: milliseconds, with the quartiles of all passes if known."""

    items: int
    runtime: str
    dense: float
    compact: float
    dense_quartiles: tuple[float, float] | None = None
    quartiles: tuple[float, float] | None = None

    @property
    def faster(self) -> bool:
        """Whether the compact network is measurably faster: its median lies below the dense network's lower quartile."""
        return self.compact < (self.dense_quartiles[0] if self.dense_quartiles else self.dense)

    @property
    def wide(self) -> bool:
        """Whether the quartiles of one of the networks lie so far apart that other work must have been running."""
        both = ((self.dense, self.dense_quartiles), (self.compact, self.quartiles))
        return any(pair is not None and pair[1] - pair[0] > WIDE * median for median, pair in both)

    @property
    def said(self) -> str:
        """The comparison in words."""
        doubt = ", but the times spread widely" if self.wide else ""
        if self.faster:
            return f"{1 - self.compact / self.dense:.0%} less than the dense network's {self.dense:.3g} ms{doubt}"
        how = "more than" if self.compact > self.dense else "not measurably less than"
        return f"{how} the dense network's {self.dense:.3g} ms{doubt}"


def spread(quartiles: tuple[float, float] | None) -> str:
    """Return quartiles as text."""
    return f"{quartiles[0]:.3g}–{quartiles[1]:.3g}" if quartiles else "not kept"


def times_of(run: Run) -> list[Times]:
    """Return every measurement of the whole network that the run's folder has: the run's own, then those of a comparison."""
    found = []
    for key in (key for key in run.summary if key.startswith("cpu_milliseconds") and not key.endswith("_dense")):
        named = key.replace("milliseconds", "quartiles")
        dense, own = (run.summary.get(f"{named}{end}") for end in ("_dense", ""))
        items = int(key.removeprefix("cpu_milliseconds_of_")) if "_of_" in key else 1
        pairs = [tuple(pair) if pair else None for pair in (dense, own)]
        found.append(Times(items, "eager PyTorch, CPU", run.summary[f"{key}_dense"], run.summary[key], *pairs))
    if run.bench is not None:
        rows = run.bench.rows
        firsts = {(row.runtime, row.batch_size): row for row in rows if row.network == run.bench.first}
        for row in rows:
            if row.network != run.bench.first:
                first = firsts[row.runtime, row.batch_size]
                both = (first.milliseconds, row.milliseconds, first.quartiles, row.quartiles)
                found.append(Times(row.batch_size, f"{row.runtime}, lrpet bench", *both))
    return found


def dense_score(run: Run, runs: Sequence[Run]) -> tuple[float, str] | None:
    """Return the score of the dense network, and where it is from; None if it is not known.

    It is that of a dense run of the network and data among `runs`, or of the dense run that this one took its weights from.
    """
    for other in runs:
        if other.is_dense and other.task == run.task and other.score is not None:
            return other.score, other.name
    weights = run.config.get("weights")
    if weights is None or not (path := Path(str(weights)) / "summary.json").is_file():
        return None
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
    comes = summary.get("method") == "dense" and (summary.get("model"), summary.get("data")) == run.task
    value = summary.get(f"test_{run.kind}") if comes else None
    return None if value is None else (float(value), path.parent.name)


def score_of(run: Run, value: float) -> str:
    """Return a score as text."""
    return f"{value:.3f}" if run.is_text else f"{value:.2%}"


def against(run: Run, score: float, dense: float) -> str:
    """Return how a score differs from the dense network's, in words."""
    if run.is_text:
        return f"{abs(score / dense - 1):.1%} {'above' if score > dense else 'below'}"
    points = 100 * (score - dense)
    return f"{abs(points):.2f} points {'above' if points > 0 else 'below'}"


def count(number: float) -> str:
    """Return a large number with its unit of thousands, millions or billions."""
    for scale, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= scale:
            return f"{number / scale:.3g} {unit}"
    return f"{number:g}"


def disk_bytes(run: Run) -> int | None:
    """Return the size of the compact network's file of weights; None where the run has not ended."""
    path = run.folder / "compact" / WEIGHTS
    return path.stat().st_size if path.is_file() else run.summary.get("bytes")


def facts(run: Run, runs: Sequence[Run]) -> list[Fact]:
    """Return the numbers that head a run's part of the page."""
    plan = run.plan
    found = [_score_fact(run, runs)]
    for label, dense, compact in (
        ("multiply-adds, whole network", plan.macs_dense, plan.macs),
        ("parameters, whole network", plan.params_dense, plan.params),
    ):
        cut = f"{compact / dense:.0%} of {count(dense)}" if not run.is_dense else "the dense network"
        found.append(Fact(label, count(compact), cut))
    measured = times_of(run)
    if measured:
        first = measured[0]
        item = "window" if run.is_text else "image"
        detail = f"half of all passes took {spread(first.quartiles)} ms" if first.quartiles else "no spread was kept"
        if not run.is_dense:
            detail += f"; {first.said}"
        found.append(Fact(f"latency, one {item}, {first.runtime}", f"{first.compact:.3g} ms", detail))
    if (size := disk_bytes(run)) is not None:
        before = run.summary.get("bytes_dense")
        found.append(Fact("size on disk", f"{size / 1e6:.3g} MB", f"dense {before / 1e6:.3g} MB" if before else ""))
    return found


def _score_fact(run: Run, runs: Sequence[Run]) -> Fact:
    if run.score is None:
        return Fact(f"test {run.kind}", "–", "the run has not ended")
    seed = f"seed {run.summary['seed']}"
    if run.is_dense:
        return Fact(f"test {run.kind}", score_of(run, run.score), f"the dense network, {seed}")
    dense = dense_score(run, runs)
    if dense is None:
        return Fact(f"test {run.kind}", score_of(run, run.score), f"{seed}; the dense network's is not known")
    than = f"{against(run, run.score, dense[0])} the dense network's {score_of(run, dense[0])} ({dense[1]})"
    return Fact(f"test {run.kind}", score_of(run, run.score), f"{than}, {seed}")


def verdict(run: Run, runs: Sequence[Run]) -> str:
    """Return in a few words what the run came to."""
    if run.score is None:
        if not run.epochs:
            return "This run has not ended: the page shows what it logged before its first epoch was over."
        done = f"{run.epochs[-1]['epoch']} of {run.config.get('epochs', '?')} epochs"
        return f"This run has not ended: the page shows what it logged in {done}."
    if run.is_dense:
        return f"The dense network comes to a test {run.kind} of {score_of(run, run.score)}."
    plan, dense = run.plan, dense_score(run, runs)
    unknown = "; what that loses is not known without a run of the dense network"
    loss = unknown if dense is None else f", {against(run, run.score, dense[0])} the dense network"
    said = [
        f"Test {run.kind} {score_of(run, run.score)}{loss}.",
        f"It has {plan.macs / plan.macs_dense:.0%} of the multiply-adds",
        f"and {plan.params / plan.params_dense:.0%} of the parameters.",
    ]
    said += [f"One pass takes {each.compact:.3g} ms, {each.said}." for each in times_of(run)[:1]]
    return " ".join(said)
