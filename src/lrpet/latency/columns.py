"""Text in columns."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from lrpet.planning.text import printable


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]], *, left: Collection[int]) -> list[str]:
    """Return the lines of a table with a heading; the columns in `left` are aligned left, the others right."""
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join(padded).rstrip()

    return [line(head), line(["─" * width for width in widths]), *map(line, rows)]
