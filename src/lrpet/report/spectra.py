"""Recorded singular values, thinned to what a picture can show."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

#: Singular values that a page holds at most, or about that, so that it stays below 3 MB.
MOST_VALUES = 120_000
#: Points of a curve, at most and at least.
MOST, LEAST = 128, 12
_ORDER = ("free", "projected", "end")
_WORDS = {"free": "", "projected": ", right after the projection", "end": ", at the end"}


@dataclass(frozen=True)
class Moment:
    """One moment of a training: its step, and the singular values of every layer, descending."""

    step: int
    when: str
    values: dict[str, np.ndarray]

    @property
    def words(self) -> str:
        """The moment in words."""
        return f"step {self.step:,}{_WORDS[self.when]}"


@dataclass(frozen=True)
class Spectra:
    """The moments of a run in order, or why there are none."""

    moments: tuple[Moment, ...]
    why_none: str = ""

    @classmethod
    def read(cls, folder: Path) -> Spectra:
        """Read the files that a training recorded. A damaged one is left out."""
        skipped = folder / "skipped.txt"
        if skipped.is_file():
            return cls((), skipped.read_text(encoding="utf-8").strip())
        moments = []
        for path in folder.glob("*-*.safetensors"):
            step, _, when = path.stem.partition("-")
            if not step.isdigit() or when not in _ORDER:
                continue
            try:
                moments.append(Moment(int(step), when, load_file(path)))
            except (SafetensorError, OSError, ValueError):
                continue
        moments.sort(key=lambda moment: (moment.step, _ORDER.index(moment.when)))
        return cls(tuple(moments), "" if moments else "The run recorded none (option spectra, or an earlier lrpet).")

    def layers(self, names: Iterable[str]) -> list[str]:
        """Return those of these names that are layers which all moments have."""
        if not self.moments:
            return []
        return [name for name in names if all(name in moment.values for moment in self.moments)]

    def curves(self, name: str, rank: int | None, *, layers: int) -> tuple[list[int], list[list[float]]]:
        """Return the curves of a layer: numbers of singular values from 1, and for each moment the values at them.

        Values are fractions of the largest of all moments. `layers` is how many layers share the page.
        """
        full = min(len(moment.values[name]) for moment in self.moments)
        allowed = MOST_VALUES // max(1, len(self.moments) * layers)
        at = thinned(full, rank, max(LEAST, min(MOST, allowed)))
        picked = np.asarray(at) - 1
        largest = max(float(moment.values[name].max(initial=0)) for moment in self.moments) or 1.0
        return at, [(moment.values[name][picked] / largest).tolist() for moment in self.moments]


def thinned(full: int, rank: int | None, points: int) -> list[int]:
    """Return at most `points` numbers from 1 to `full`, with the rank and the one after it among them."""
    if full <= points:
        return list(range(1, full + 1))
    step = (full - 1) / (points - 3)
    chosen = {1 + math.floor(i * step + 0.5) for i in range(points - 2)}
    if rank is not None:
        chosen |= {rank, min(rank + 1, full)}
    return sorted(number for number in chosen if 1 <= number <= full)
