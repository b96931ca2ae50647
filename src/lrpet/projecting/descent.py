"""Ranks that move while training: from full rank down to the plan's."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Literal, get_args

Shape = Literal["cubic", "linear", "step"]


@dataclass(frozen=True)
class Descent:
    """Ranks for `Projector(ranks=...)`: full at first, the plan's from the fraction `end` of a training on.

    With x = (t/total_steps − start) / (end − start), clipped to [0, 1], the rank of a layer at step t is
    full − (full − planned)·p(x), where

        p(x) = 1 − (1 − x)³ for "cubic" (Zhu and Gupta 2017), x for "linear", and ⌊4·x⌋/4 for "step".

    Args:
        total_steps: Length of the training.
        start: Fraction of it before which nothing is pruned.
        end: Fraction from which the plan's ranks hold, above `start`.
        shape: How the ranks fall in between.

    Raises ValueError if a number or the shape is out of range.
    """

    total_steps: int
    _: KW_ONLY
    start: float = 0.0
    end: float = 0.6
    shape: Shape = "cubic"

    def __post_init__(self) -> None:
        if self.total_steps < 1:
            raise ValueError(f"total_steps={self.total_steps!r} must be at least 1")
        if not 0 <= self.start < self.end <= 1:
            raise ValueError(f"start={self.start!r} must be at least 0 and below end={self.end!r}, which is at most 1")
        if self.shape not in get_args(Shape):
            raise ValueError(f"shape={self.shape!r} must be one of {', '.join(get_args(Shape))}")

    def progress(self, step: int) -> float:
        """p at this step: 0 while ranks are full, 1 when they are the plan's."""
        x = min(1.0, max(0.0, (step / self.total_steps - self.start) / (self.end - self.start)))
        if self.shape == "cubic":
            return 1 - (1 - x) ** 3
        return x if self.shape == "linear" else int(4 * x) / 4

    def rank(self, full: int, planned: int, step: int) -> int:
        """Of a layer at this step."""
        return full - round((full - planned) * self.progress(step))
