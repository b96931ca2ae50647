"""A plan as text."""

from __future__ import annotations

from collections.abc import Sequence

from lrpet.planning.layer_plan import LayerPlan
from lrpet.planning.text import printable

_HEAD = ("layer", "kind", "matrix", "rank", "MACs", "→", "params", "→", "batch norm", "decision")
_LEFT = {0, 1, 8, 9}
#: Columns that are dropped, in this order, where a table is too wide; then the decision is shortened.
_OPTIONAL = (8, 1, 2)
_SHORTEST_DECISION = 24


#: The fraction of the whole network's cost from which the row of a dense layer says it.
_NOTABLE = 0.01


def rendered(layers: Sequence[LayerPlan], width: int | None, *, macs: int, params: int) -> list[str]:
    """Return the lines of a table with a row for each layer, no wider than `width` characters if that can be had.

    `macs` and `params` are those of the whole dense network.
    """
    rows = [_HEAD, *(_row(layer, macs, params) for layer in layers)]
    shown = list(range(len(_HEAD)))
    for column in _OPTIONAL:
        if width is not None and _width(rows, shown[:-1]) + _SHORTEST_DECISION > width:
            shown.remove(column)
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEAD))]
    if width is not None:
        widths[-1] = min(widths[-1], max(_SHORTEST_DECISION, width - _width(rows, shown[:-1])))
    lines = [_line(row, widths, shown) for row in (_HEAD, tuple("─" * w for w in widths), *rows[1:])]
    return lines if width is None else [line[:width] for line in lines]


def change(before: int, after: int, unit: str) -> str:
    """Return "12.00 M → 6.00 M unit, 50.00 % cut"."""
    cut = f", {100 * (1 - after / before):.2f} % cut" if before else ""
    return f"{before / 1e6:,.2f} M → {after / 1e6:,.2f} M {unit}{cut}"


def _row(layer: LayerPlan, all_macs: int, all_params: int) -> tuple[str, ...]:
    matrix = str(layer.shape) + (" spatial" if layer.unfolding == "spatial" else "") if layer.rows else ""
    rank = "dense" if layer.rank is None else str(layer.rank)
    share = "" if layer.rank is not None else _share(layer, all_macs, all_params)
    costs = (f"{n:,}" for n in (layer.macs_dense, layer.macs, layer.params_dense, layer.params))
    row = (layer.name or "(root)", layer.kind, matrix, rank, *costs, layer.batch_norm or "", layer.reason + share)
    return tuple(map(printable, row))


def _share(layer: LayerPlan, all_macs: int, all_params: int) -> str:
    """Return what a dense layer is of the network, such as " (30 % of the parameters)"; "" where that is little."""
    parts = {
        "parameters": layer.params_dense / max(1, all_params),
        "multiply-adds": layer.macs_dense / max(1, all_macs),
    }
    notable = [f"{part:.0%} of the {unit}" for unit, part in parts.items() if part >= _NOTABLE]
    return f" ({', '.join(notable)})" if notable else ""


def _width(rows: Sequence[tuple[str, ...]], shown: Sequence[int]) -> int:
    """Return the width of these columns, each with the gap after it."""
    return sum(max(len(row[i]) for row in rows) + 2 for i in shown)


def _line(row: tuple[str, ...], widths: Sequence[int], shown: Sequence[int]) -> str:
    cells = (_shortened(row[i], widths[i]) for i in shown)
    padded = (
        cell.ljust(widths[i]) if i in _LEFT else cell.rjust(widths[i]) for cell, i in zip(cells, shown, strict=True)
    )
    return "  ".join(padded).rstrip()


def _shortened(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
