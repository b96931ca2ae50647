"""The picture of singular values over training, which the page's script redraws for another layer or step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from lrpet.report.runs import Run
from lrpet.report.svg import Plot, Scale, element, power, text

#: The smallest part of the largest singular value that the picture tells from none.
FLOOR = 1e-6
#: Parts of the horizontal axis between ticks.
PARTS = 4
#: Where the picture's middle is; the script puts words on the left of a line that is beyond it.
MIDDLE = 250


@dataclass(frozen=True)
class Folding:
    """The first picture, and the numbers from which the script draws the others, in units of its viewBox."""

    picture: Markup
    layers: list[str]
    chosen: int
    moments: list[str]
    data: dict[str, Any]


def folding(run: Run, *, runs: int = 1) -> Folding | None:
    """Return the picture of the layer that lost most at the first projection, at the end; None where nothing was recorded.

    `runs` is how many runs share the page.
    """
    spectra = run.spectra
    if spectra is None or not (names := spectra.layers(layer.name for layer in run.plan.layers)):
        return None
    plot = Plot(Scale(0, 1), Scale(FLOOR, 1.0, log=True), height=300)
    ranks = run.plan.ranks
    layers = []
    for name in names:
        rank = ranks.get(name)
        at, curves = spectra.curves(name, rank, layers=runs * len(names))
        full = at[-1]
        layers.append(
            {
                "full": full,
                "rank": rank,
                "cut": None if rank is None else round(plot.px((rank + 0.5) / full), 1),
                "x": [round(plot.px(number / full), 1) for number in at],
                "y": [[round(plot.py(max(value, FLOOR))) for value in curve] for curve in curves],
            }
        )
    chosen = _chosen(run, names)
    moments = [_before(run, number, moment.words) for number, moment in enumerate(spectra.moments)]
    data = {"layers": layers, "moments": moments}
    return Folding(_first(plot, layers[chosen], names[chosen], moments[-1]), names, chosen, moments, data)


def _before(run: Run, number: int, words: str) -> str:
    """Say of a moment at the first projection's step that it is before the projection."""
    assert run.spectra is not None
    moments = run.spectra.moments
    following = number + 1 < len(moments) and moments[number + 1].step == moments[number].step
    return f"{words}, right before the projection" if following and moments[number + 1].when == "projected" else words


def _chosen(run: Run, names: list[str]) -> int:
    """Return the number of the layer of which most was pruned at first; the first one where nothing was."""
    first: dict[str, float] = run.projections[0].get("layers", {}) if run.projections else {}
    return max(range(len(names)), key=lambda number: first.get(names[number], 0.0))


def _first(plot: Plot, layer: dict[str, Any], name: str, words: str) -> Markup:
    full = layer["full"]
    plot.axes(
        "number of the singular value",
        "singular value, as a part of the largest",
        x_ticks=[part / PARTS for part in range(PARTS + 1)],
        show_x=lambda x: f"{x * full:.0f}",
        show_y=power,
    )
    floor = plot.height - plot.bottom
    cut = -99 if layer["cut"] is None else layer["cut"]
    plot.parts.append(element("line", class_="mark", x1=cut, x2=cut, y1=plot.top, y2=floor, data_part="cut"))
    label = "" if layer["rank"] is None else f"rank {layer['rank']} of {full}"
    plot.parts.append(
        text(label or "stays dense", cut + 5 if label else MIDDLE, plot.height / 2, class_="note", data_part="rank")
    )
    for part, look, curve in (("start", "line b", layer["y"][0]), ("now", "line a", layer["y"][-1])):
        points = " ".join(f"{x},{y}" for x, y in zip(layer["x"], curve, strict=True))
        plot.parts.append(element("polyline", class_=look, points=points, data_part=part))
    return plot.svg(f"Singular values of {name} at {words}, and at the beginning of the training.")
