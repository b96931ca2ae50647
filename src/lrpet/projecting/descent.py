"""Ranks that fall while training, from full rank down to the plan's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

DescentShape = Literal["cubic", "linear", "step"]


@dataclass(frozen=True, kw_only=True)
class Descent:
    """Ranks for `Projector(descent=...)`: full at first, the plan's from the fraction `end` of a training on.

    With x = (t/total_steps − start) / (end − start), clipped to [0, 1], the rank of a layer at step t is
    full − (full − planned)·p(x), where

        p(x) = 1 − (1 − x)³ for "cubic" (Zhu and Gupta 2017), x for "linear", and ⌊4·x⌋/4 for "step".

    Args:
        start: Fraction of the training before which every rank is full, at least 0.
        end: Fraction of the training from which the plan's ranks hold, above `start` and at most 1.
        shape: How the ranks fall in between: "cubic", "linear" or "step".

    Raises:
        ValueError: A fraction is out of range, or there is no shape of this name.
    """

    start: float = 0.0
    end: float = 0.6
    shape: DescentShape = "cubic"

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end <= 1:
            raise ValueError(
                f"got start={self.start!r} and end={self.end!r}: give fractions of the training with 0 <= start < end <= 1"
            )
        if self.shape not in get_args(DescentShape):
            raise ValueError(f"got shape={self.shape!r}: give one of {', '.join(get_args(DescentShape))}")

    def progress(self, fraction: float) -> float:
        """Compute p: 0 while ranks are full, 1 when they are the plan's.

        Args:
            fraction: How much of the training is done, t/total_steps, at least 0. Above 1 the ranks stay the plan's.
        """
        x = min(1.0, max(0.0, (fraction - self.start) / (self.end - self.start)))
        if self.shape == "cubic":
            return 1 - (1 - x) ** 3
        return x if self.shape == "linear" else int(4 * x) / 4

    def rank(self, full: int, planned: int, fraction: float) -> int:
        """Compute the rank of a layer when this fraction of the training is done.

        Args:
            full: The layer's full rank.
            planned: The plan's rank for it, at most `full`.
            fraction: How much of the training is done, t/total_steps.
        """
        return full - round((full - planned) * self.progress(fraction))
