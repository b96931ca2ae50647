"""Where the time of a pass goes, layer by layer; without a measurement, where the multiply-adds go."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

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
    if run.table is not None:
        ranks, table = run.plan.ranks, run.table
        found = {
            name: (
                dense,
                table.milliseconds(name, ranks[name]) if table.factorised.get(name) and name in ranks else dense,
            )
            for name, dense in table.dense.items()
        }
        return ByLayer(found, "ms", f"From the table of latencies: {table.conditions}.")
    found = {layer.name: (layer.macs_dense / 1e6, layer.macs / 1e6) for layer in run.plan.layers if layer.macs_dense}
    said = f"lrpet bench {run.folder} --layers --json {run.folder / BENCH}"
    return ByLayer(found, "M multiply-adds", "No times were measured by layer. The next report has them after", said)


def times(run: Run) -> Markup | None:
    """Draw two bars for each of the costliest layers, dense and compact; None where nothing costs anything."""
    found = by_layer(run)
    ordered = sorted(found.costs.items(), key=lambda item: -item[1][0])
    shown, others = ordered[:MOST], ordered[MOST:]
    if others:
        rest = (sum(dense for _, (dense, _) in others), sum(compact for _, (_, compact) in others))
        shown.append((f"{len(others)} other layers", rest))
    longest = max((max(pair) for _, pair in shown), default=0.0)
    if not longest:
        return None
    room = WIDTH - LEFT - 52
    parts = []
    for number, (name, (dense, compact)) in enumerate(shown):
        top = 4 + number * ROW
        words = tip(f"{name}: dense {dense:.3g} {found.unit}, compact {compact:.3g} {found.unit}")
        parts.append(text(_ending(name), LEFT - 6, top + 14, class_="tick", text_anchor="end"))
        for offset, value, look in ((1, dense, "bar b"), (11, compact, "bar a")):
            parts.append(
                element(
                    "rect", words, class_=look, x=LEFT, y=top + offset, height=9, width=max(0.5, room * value / longest)
                )
            )
            parts.append(text(f"{value:.3g}", LEFT + room * value / longest + 4, top + offset + 8, class_="tiny"))
    total = [sum(pair[which] for pair in found.costs.values()) for which in (0, 1)]
    title = f"By layer, in {found.unit}: all layers take {total[0]:.3g} dense and {total[1]:.3g} compact. " + "; ".join(
        f"{name}: {dense:.3g} dense, {compact:.3g} compact" for name, (dense, compact) in shown
    )
    return picture("".join(parts), title, WIDTH, 8 + ROW * len(shown))


def _ending(name: str) -> str:
    """Return a layer's name, or the end of a long one."""
    return name if len(name) <= 22 else f"…{name[-21:]}"
