"""The pictures of one run: scores, energies and ranks."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from lrpet.planning.layer_plan import LayerPlan
from lrpet.report.runs import Run
from lrpet.report.svg import Plot, Point, Scale, element, power, text, tip

#: Points of a curve over projections, at most; more are put together by their means.
MOST_POINTS = 240
#: From so many points on they are small.
FEW, SMALL = 60, 1.2
#: The smallest fraction of energy that the picture tells from none.
LEAST_ENERGY = 1e-8
#: Layers whose ranks have room to be written above their bars, at most.
WRITTEN = 24


def scores(run: Run) -> Markup | None:
    """Draw accuracy, or perplexity, over the epochs, with the first projection; None before an epoch has ended."""
    kind = run.kind
    parts: dict[str, list[Point]] = {
        part: [(line["epoch"], line[f"{part}_{kind}"]) for line in run.epochs if line.get(f"{part}_{kind}") is not None]
        for part in ("train", "val")
    }
    if not any(parts.values()):
        return None
    ending = [] if run.score is None else [(run.epochs[-1]["epoch"], run.score)]
    values = [y for points in (*parts.values(), ending) for _, y in points]
    last = run.epochs[-1]["epoch"]
    plot = Plot(Scale(0, last * 1.04), Scale.of(values, log=run.is_text))
    show = "{:g}".format if run.is_text else "{:.0%}".format
    plot.axes("epoch", "perplexity (lower is better)" if run.is_text else "accuracy", show_y=show)
    if run.projections:
        step = run.projections[0]["step"]
        plot.upright(step / run.steps_per_epoch, f"first projection, step {step:,}")
    exact = "{:.3f}".format if run.is_text else "{:.2%}".format
    for part, look in (("train", "b"), ("val", "a")):
        points = parts[part]
        called = {"train": "training", "val": "validation"}[part]
        plot.line(points, look)
        tips = [f"epoch {x:g}: {called} {kind} {exact(y)}" for x, y in points]
        plot.dots(points, look, tips, radius=3.5 if len(points) < FEW else SMALL)
    for x, y in ending:
        words = f"test {kind} of the compact network: {exact(y)}"
        plot.parts.append(_diamond(plot.px(x), plot.py(y), words))
    return plot.svg(_told(parts, exact, kind, ending))


def _told(parts: dict[str, list[Point]], exact: Any, kind: str, ending: list[Point]) -> str:
    said = [
        f"{called} {kind} goes from {exact(points[0][1])} to {exact(points[-1][1])}"
        for called, points in (("training", parts["train"]), ("validation", parts["val"]))
        if points
    ]
    said += [f"the compact network's test {kind} is {exact(y)}" for _, y in ending]
    return f"{kind.capitalize()} over the epochs: {'; '.join(said)}."


def _diamond(x: float, y: float, words: str) -> str:
    corners = f"{x:.1f},{y - 6:.1f} {x + 6:.1f},{y:.1f} {x:.1f},{y + 6:.1f} {x - 6:.1f},{y:.1f}"
    return element("polygon", tip(words), class_="dot c", points=corners)


def energy(run: Run) -> Markup | None:
    """Draw what part of the energy each projection pruned: the mean over layers, and the most of any layer."""
    logged = [line for line in run.projections if line.get("layers")]
    if not logged:
        return None
    steps = [float(line["step"]) for line in logged]
    means = [max(LEAST_ENERGY, line["pruned"]) for line in logged]
    most = [max(LEAST_ENERGY, *line["layers"].values()) for line in logged]
    plot = Plot(Scale.of(steps), Scale.of([*means, *most], log=True))
    several = len(plot.y.ticks()) > 1
    show = (lambda y: power(100 * y, "%")) if several else _percent
    plot.axes("step", "energy pruned", show_y=show, show_x="{:,.0f}".format)
    for values, look, called in ((most, "b", "most of any layer"), (means, "a", "mean over layers")):
        points = _together(list(zip(steps, values, strict=True)))
        plot.line(points, look)
        tips = [f"step {x:,.0f}: {called} {_percent(y)}" for x, y in points]
        plot.dots(points, look, tips, radius=3.5 if len(points) < FEW else SMALL)
    return plot.svg(
        f"Energy pruned at {len(logged):,} projections: on the mean over layers {_percent(means[0])} at the first and "
        f"{_percent(means[-1])} at the last."
    )


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.3g} %"


def _together(points: list[Point]) -> list[Point]:
    """Return at most `MOST_POINTS` points: means of neighbours where there are more, but the first as it is."""
    if len(points) <= MOST_POINTS:
        return points
    size = -(-(len(points) - 1) // (MOST_POINTS - 1))
    groups = [points[:1], *(points[i : i + size] for i in range(1, len(points), size))]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]


def ranks(run: Run) -> Markup | None:
    """Draw the rank of every layer as a part of its full rank; None where no layer has a matrix."""
    layers = [layer for layer in run.plan.layers if layer.rows and layer.shape.full_rank]
    if not layers:
        return None
    plot = Plot(Scale(0, len(layers)), Scale(0, 1.0))
    every = max(1, round(len(layers) / 8))
    numbers = [number + 0.5 for number in range(0, len(layers), every)]
    plot.axes(
        "layer, in the order of the table",
        "rank, as a part of the full rank",
        show_y="{:.0%}".format,
        show_x=lambda x: f"{x + 0.5:.0f}",
        x_ticks=numbers,
    )
    for number, layer in enumerate(layers):
        plot.parts += _bar(plot, number, layer, write=len(layers) <= WRITTEN)
    factorised = [layer for layer in layers if layer.rank is not None]
    return plot.svg(
        f"{len(factorised)} of {len(layers)} layers are factorised. "
        + "; ".join(f"{layer.name}: {layer.rank} of {layer.shape.full_rank}" for layer in factorised[:40])
    )


def _bar(plot: Plot, number: int, layer: LayerPlan, *, write: bool) -> list[str]:
    full = layer.shape.full_rank
    gap = 0.12 if plot.x.high <= 2 * WRITTEN else 0.0
    left, right = plot.px(number + gap), plot.px(number + 1 - gap)
    floor, ceiling = plot.py(0), plot.py(1)
    words = tip(f"{layer.name}: " + (f"rank {layer.rank} of {full}" if layer.rank else f"dense, full rank {full}"))
    bar = {"x": left, "width": max(0.5, right - left)}
    parts = [element("rect", words, class_="full" if layer.rank else "dense", y=ceiling, height=floor - ceiling, **bar)]
    if layer.rank is not None:
        top = plot.py(layer.rank / full)
        parts.append(element("rect", words, class_="bar a", y=top, height=floor - top, **bar))
        if write:
            parts.append(text(str(layer.rank), (left + right) / 2, top - 3, class_="tiny", text_anchor="middle"))
    return parts
