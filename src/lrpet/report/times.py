"""Where the time of a pass goes, layer by layer; without a measurement, where the multiply-adds go."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from lrpet.latency.table import LatencyTable
from lrpet.planning.plan import Plan
from lrpet.report.runs import BENCH, Run
from lrpet.report.svg import element, picture, text, tip

#: Layers that have a bar of their own, at most; the others are put together.
MOST = 14
ROW, LEFT, WIDTH = 26, 150, 440


@dataclass(frozen=True)
class ByLayer:
    """What every layer takes, dense and compact, and what that was taken from."""

    costs: dict[str, tuple[float, float]]
    """{layer: (dense, compact)}."""
    unit: str
    source: str
    """A sentence about where the numbers come from."""
    command: str = ""
    """The command that measures times, where that was not done."""


def by_layer(run: Run) -> ByLayer:
    """Return the best that the run's folder has: times of a comparison or a table, else multiply-adds."""
    if run.bench is not None and run.bench.layers:
        other = run.bench.layers[0].network
        rows = [row for row in run.bench.layers if row.network == other]
        found = {row.layer: (row.dense_milliseconds, row.milliseconds) for row in rows}
        return ByLayer(found, "ms", f"Measured by lrpet bench --layers: {run.bench.heading()}.")
    if run.table is not None and (found := _by_table(run.table, run.plan)):
        return ByLayer(found, "ms", f"From the table of latencies: {run.table.conditions}.")
    found = {layer.name: (layer.macs_dense / 1e6, layer.macs / 1e6) for layer in run.plan.layers if layer.macs_dense}
    said = f"lrpet bench {run.folder} --layers --json {run.folder / BENCH}"
    return ByLayer(found, "M multiply-adds", "No times were measured by layer. The next report has them after", said)


def _by_table(table: LatencyTable, plan: Plan) -> dict[str, tuple[float, float]]:
    """Return {layer: (dense, compact)} of layers that were measured as they are planned."""
    planned = {layer.name: layer for layer in plan.layers if layer.rank is not None}
    found = {}
    for name, dense in table.dense.items():
        layer = planned.get(name)
        try:
            found[name] = dense, dense if layer is None else table.milliseconds(name, layer.rank, layer.unfolding)
        except KeyError:
            continue
    return found


def times(run: Run) -> Markup | None:
    """Draw two bars for each of the costliest layers, dense and compact; None where nothing costs anything."""
    found = by_layer(run)
    ordered = sorted(found.costs.items(), key=lambda item: -item[1][0])
    shown, others = ordered[:MOST], ordered[MOST:]
    longest = max((max(pair) for _, pair in shown), default=0.0)
    if not longest:
        return None
    room = (WIDTH - LEFT - 52) / longest
    parts = [part for number, (name, pair) in enumerate(shown) for part in _bars(number, name, pair, found.unit, room)]
    height = 8 + ROW * len(shown)
    if others:
        rest = [sum(pair[which] for _, pair in others) for which in (0, 1)]
        words = f"and {len(others)} others: {_number(rest[0])} dense, {_number(rest[1])} compact"
        parts.append(text(words, LEFT, height + 12, class_="tick"))
        height += 20
    total = [sum(pair[which] for pair in found.costs.values()) for which in (0, 1)]
    said = f"all layers take {_number(total[0])} dense and {_number(total[1])} compact. "
    each = "; ".join(f"{name}: {_number(pair[0])} dense, {_number(pair[1])} compact" for name, pair in shown)
    return picture("".join(parts), f"By layer, in {found.unit}: {said}{each}", WIDTH, height)


def _bars(number: int, name: str, pair: tuple[float, float], unit: str, room: float) -> list[str]:
    """Return the name and the two bars of a layer; `room` is the width of one unit."""
    top = 4 + number * ROW
    words = tip(f"{name}: dense {_number(pair[0])} {unit}, compact {_number(pair[1])} {unit}")
    parts = [text(_ending(name), LEFT - 6, top + 14, class_="tick", text_anchor="end")]
    for offset, value, look in ((1, pair[0], "bar b"), (11, pair[1], "bar a")):
        width = max(0.5, room * value)
        parts.append(element("rect", words, class_=look, x=LEFT, y=top + offset, height=9, width=width))
        parts.append(text(_number(value), LEFT + room * value + 4, top + offset + 8, class_="tiny"))
    return parts


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _ending(name: str) -> str:
    """Return a layer's name, or the end of a long one."""
    return name if len(name) <= 22 else f"…{name[-21:]}"
