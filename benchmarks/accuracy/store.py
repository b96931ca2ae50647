"""The results of a folder: `accuracy.jsonl`, a line of scalars for each, and `accuracy-curves.jsonl`, a line of lists for each.

Many processes may add to one folder at once. Each waits for the others, then writes both files anew, so that a line is there
whole or not at all. Lines are sorted by the name of their cell, and no name comes twice.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from benchmarks.accuracy.run import Cell
from lrpet.compact.write import written

Lines = dict[str, dict[str, Any]]

#: The keys of a result that are kept among the curves.
CURVES = ("curve", "pruned")
#: Significant digits of the numbers in a curve.
DIGITS = 6


class Store:
    """The results in a folder."""

    def __init__(self, folder: Path) -> None:
        self._scalars, self._curves = folder / "accuracy.jsonl", folder / "accuracy-curves.jsonl"

    def names(self) -> set[str]:
        """Return the names of the cells that have a result."""
        return set(self._read_scalars())

    def read(self) -> list[dict[str, Any]]:
        """Return every result with its curves, sorted by the name of its cell."""
        scalars = self._read_scalars()
        curves = self._read_curves()  # read last, as they are written first: another process may be adding
        if missing := sorted(scalars.keys() - curves.keys()):
            raise ValueError(f"{self._curves} lacks the curves of {', '.join(missing)}: restore its lines")
        return [{**result, **{key: curves[name][key] for key in CURVES}} for name, result in scalars.items()]

    def add(self, result: Mapping[str, Any]) -> None:
        """Add a result, unless its cell has one already."""
        name = _cell(result).name
        curves = {key: {what: list(map(_rounded, row)) for what, row in result[key].items()} for key in CURVES}
        scalars = {key: value for key, value in result.items() if key not in CURVES}
        self._scalars.parent.mkdir(parents=True, exist_ok=True)
        with _alone(self._scalars.parent):
            known = self._read_scalars()
            if name in known:
                return
            # Curves first: a result counts as there once its scalars are.
            _write(self._curves, {**self._read_curves(), name: {"name": name, **curves}})
            _write(self._scalars, {**known, name: scalars})

    def _read_scalars(self) -> Lines:
        return _unique(self._scalars, ((_cell(line).name, line) for line in _lines(self._scalars)))

    def _read_curves(self) -> Lines:
        return _unique(self._curves, ((line["name"], line) for line in _lines(self._curves)))


def _cell(result: Mapping[str, Any]) -> Cell:
    return Cell(**{field.name: result[field.name] for field in fields(Cell)})


def _rounded(number: float) -> float:
    return float(f"{number:.{DIGITS}g}") if isinstance(number, float) else number


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        yield from map(json.loads, path.read_text(encoding="utf-8").splitlines())


def _unique(path: Path, named: Iterator[tuple[str, dict[str, Any]]]) -> Lines:
    lines: Lines = {}
    for name, line in named:
        if name in lines:
            raise ValueError(f"{path} has two lines for {name}: remove one of them")
        lines[name] = line
    return lines


def _write(path: Path, lines: Lines) -> None:
    with written(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for _, line in sorted(lines.items()))
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let no other process add to `folder` inside: one that wants to waits."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
