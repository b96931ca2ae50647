"""Several runs beside each other: pictures of score against cost, and a table of differences."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from lrpet.report.facts import count, disk_bytes, score_of, times_of
from lrpet.report.runs import Run
from lrpet.report.svg import Plot, Scale, element, text, tip

#: Options that differ between runs without making them different.
PLACES = ("output", "data_dir")


@dataclass(frozen=True)
class Line:
    """A line of the table: a label, and for each run a value and how it differs from the first run's."""

    label: str
    cells: list[tuple[str, str]]


def letters(runs: Sequence[Run]) -> dict[str, str]:
    """Return {run name: what stands for it in pictures}: A, B, …, Z, 27, ….."""
    return {run.name: chr(ord("A") + number) if number < 26 else str(number + 1) for number, run in enumerate(runs)}


def against_macs(runs: Sequence[Run]) -> Markup | None:
    """Draw scores against multiply-adds."""
    return _scatter(runs, "multiply-adds, M", lambda run: (run.plan.macs / 1e6, None))


def against_latency(runs: Sequence[Run]) -> Markup | None:
    """Draw scores against the time of one image or window, with the quartiles of all passes.

    Runs of one network are compared by parts of the dense network's time, which each run measured in turn with its own: the
    machine may have been busier at one time than at another.
    """
    relative = is_relative(runs)

    def cost(run: Run) -> tuple[float, tuple[float, float] | None] | None:
        measured = times_of(run)[:1]
        for each in measured:
            unit = each.dense if relative else 1.0
            spread = each.quartiles and (each.quartiles[0] / unit, each.quartiles[1] / unit)
            return (1.0, None) if relative and run.is_dense else (each.compact / unit, spread)
        return None

    return _scatter(runs, "time of one pass, dense = 1" if relative else "time of one pass, ms", cost)


def is_relative(runs: Sequence[Run]) -> bool:
    """Tell whether all runs are of one network and data, so that times are compared with the dense network's."""
    return len({run.task for run in runs}) == 1


def _scatter(
    runs: Sequence[Run], label: str, cost: Callable[[Run], tuple[float, tuple[float, float] | None] | None]
) -> Markup | None:
    found = [(run, *costs) for run in runs if run.score is not None and (costs := cost(run)) is not None]
    if not found or len({run.kind for run, *_ in found}) > 1:
        return None
    text_runs = found[0][0].is_text
    xs = [x for _, value, quartiles in found for x in (value, *(quartiles or ()))]
    plot = Plot(
        Scale.of([0.0, *xs], zero=True), Scale.of([run.score or 0.0 for run, *_ in found], log=text_runs, pad=0.25)
    )
    shows = "{:g}".format if text_runs else "{:.1%}".format
    kind = found[0][0].kind
    plot.axes(label, f"test {kind}" + (" (lower is better)" if text_runs else ""), show_y=shows)
    names = letters(runs)
    for run, value, quartiles in found:
        assert run.score is not None
        x, y = plot.px(value), plot.py(run.score)
        words = f"{run.name}: {kind} {score_of(run, run.score)}, {label} {value:.3g}"
        if quartiles is not None:
            low, high = map(plot.px, quartiles)
            plot.parts.append(element("line", class_="whisker", x1=low, x2=high, y1=y, y2=y))
        look = "dot hollow" if run.is_dense else "dot a"
        plot.parts.append(element("circle", tip(words), class_=look, cx=x, cy=y, r=6))
        plot.parts.append(text(names[run.name], x, y - 10, class_="note", text_anchor="middle"))
    told = "; ".join(f"{run.name}: {score_of(run, run.score or 0.0)} at {value:.3g}" for run, value, _ in found)
    return plot.svg(f"Test {kind} against {label}. {told}.")


def figures(runs: Sequence[Run]) -> list[Line]:
    """Return the figures of all runs, with their differences from the first run's."""
    rows: list[tuple[str, Callable[[Run], float | None], Callable[[Run, float], str]]] = [
        (f"test {runs[0].kind}", lambda run: run.score if run.kind == runs[0].kind else None, score_of),
        ("multiply-adds", lambda run: float(run.plan.macs), lambda _, value: count(value)),
        ("parameters", lambda run: float(run.plan.params), lambda _, value: count(value)),
        ("size on disk", disk_bytes, lambda _, value: f"{value / 1e6:.3g} MB"),
        (
            "seconds of training",
            lambda run: run.summary.get("seconds", {}).get("training"),
            lambda _, value: f"{value:,.0f} s",
        ),
    ]
    for number, runtime in _measured(runs):
        label = f"latency of {number}, {runtime}"
        rows.append((label, lambda run, key=(number, runtime): _time(run, key), lambda _, value: f"{value:.3g} ms"))  # type: ignore[misc]
    return [_line(label, [get(run) for run in runs], runs, show) for label, get, show in rows]


def _measured(runs: Sequence[Run]) -> list[tuple[int, str]]:
    return list(dict.fromkeys((each.items, each.runtime) for run in runs for each in times_of(run)))


def _time(run: Run, key: tuple[int, str]) -> float | None:
    return next((each.compact for each in times_of(run) if (each.items, each.runtime) == key), None)


def _line(label: str, values: Sequence[float | None], runs: Sequence[Run], show: Callable[[Run, float], str]) -> Line:
    first = values[0]
    cells = []
    for number, (run, value) in enumerate(zip(runs, values, strict=True)):
        if value is None:
            cells.append(("–", ""))
            continue
        difference = ""
        if number and first is not None:
            points = label.endswith("accuracy")
            difference = (
                f"{100 * (value - first):+.2f} points" if points else f"{value / first - 1:+.0%}" if first else ""
            )
        cells.append((show(run, value), difference))
    return Line(label, cells)


def options(runs: Sequence[Run]) -> list[Line]:
    """Return the options in which runs differ."""
    names = [name for name in dict.fromkeys(name for run in runs for name in run.config) if name not in PLACES]
    lines = []
    for name in names:
        values = [_shown(run.config.get(name)) for run in runs]
        if len(set(values)) > 1:
            lines.append(Line(name, [(value, "") for value in values]))
    return lines


def _shown(value: Any) -> str:
    return "none" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
