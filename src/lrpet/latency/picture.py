"""A comparison of networks as one picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrpet.compact.write import written

if TYPE_CHECKING:
    from lrpet.latency.results import Bench
    from lrpet.latency.rows import Row

#: Colours of the networks that are compared with the first one, told apart by the colour-blind too.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


def check(path: Path) -> None:
    """Raise ImportError if matplotlib is not installed, and ValueError if it does not know the format of this file."""
    known = _figure_class()().canvas.get_supported_filetypes()
    if _format(path) not in known:
        raise ValueError(f"{path} must end with the name of an image format: {', '.join(f'.{each}' for each in known)}")


def draw(bench: Bench, path: Path) -> None:
    """Draw the times of all networks, as fractions of the first one's, beside their multiply-adds.

    Raises ImportError without matplotlib, and ValueError for a file format that it does not know.
    """
    check(path)
    shown = list(dict.fromkeys(row.network for row in bench.rows if row.network != bench.first)) or [bench.first]
    groups = list(dict.fromkeys((row.runtime, row.batch_size) for row in bench.rows))
    firsts = {(row.runtime, row.batch_size): row.milliseconds for row in bench.rows if row.network == bench.first}
    figure = _figure_class()(figsize=(8, 1.8 + 0.45 * max(2, len(groups) * len(shown))), layout="constrained")
    axes = figure.subplots()
    height = 0.8 / len(shown)
    rows = [row for row in bench.rows if row.network in shown]
    right = max(1.0, *(row.quartiles[1] / firsts[row.runtime, row.batch_size] for row in rows))
    for row in rows:
        first, which = firsts[row.runtime, row.batch_size], shown.index(row.network)
        place = groups.index((row.runtime, row.batch_size)) + (which - (len(shown) - 1) / 2) * height
        _draw_row(axes, row, first, (right, place, height), _COLOURS[which % len(_COLOURS)])
    axes.axvline(1, color="grey", linestyle="--", linewidth=1, label=f"{bench.first}: time and multiply-adds")
    axes.vlines([], 0, 0, color="black", linewidth=2.5, label="multiply-adds")
    axes.set_yticks(range(len(groups)), [f"{runtime}, batch {size}" for runtime, size in groups])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.6 * right)
    axes.set_xlabel(f"fraction of {bench.first}")
    axes.set_title(bench.heading(), fontsize=10)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    with written(path) as temporary:
        figure.savefig(temporary, format=_format(path), dpi=150)


def _draw_row(axes: Any, row: Row, first: float, where: tuple[float, float, float], colour: str) -> None:
    """Draw the bar of one network, its quartiles, its multiply-adds, and the numbers at the right."""
    right, place, height = where
    low, high = row.quartiles
    spread = [[(row.milliseconds - low) / first], [(high - row.milliseconds) / first]]
    seen = axes.get_legend_handles_labels()[1]
    name = f"{row.network}: time, quartiles"
    label = None if name in seen else name
    axes.barh(place, row.time_ratio, 0.9 * height, color=colour, xerr=spread, ecolor="dimgrey", label=label)
    axes.vlines(row.cost_ratio, place - height / 2, place + height / 2, color="black", linewidth=2.5)
    realised = "" if row.realised is None else f", {row.realised:.0%} realised"
    axes.annotate(f"{first:.3g} → {row.milliseconds:.3g} ms{realised}", (right, place), (8, 0),
                  textcoords="offset points", va="center", fontsize=9)  # fmt: skip


def _figure_class() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("a plot needs matplotlib: pip install 'lrpet[plot]'", name="matplotlib") from error
    return Figure


def _format(path: Path) -> str:
    return path.suffix.removeprefix(".").lower()
