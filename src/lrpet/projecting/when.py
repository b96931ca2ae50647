"""The steps of a training at which a projector projects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lrpet.projecting.schedule import Shrinking

#: A number of steps, a fraction of the training, intervals that shrink, or a schedule (step) -> bool.
Every = int | float | Shrinking | Callable[[int], bool]


@dataclass(frozen=True)
class When:
    """From which step on, and how often, projections come. A float is a fraction of the training, an int counts steps.

    Raises ValueError if a number is out of range.
    """

    start: int | float
    every: Every

    def __post_init__(self) -> None:
        if not (_is_count(self.start, 0) or (isinstance(self.start, float) and 0 <= self.start <= 1)):
            raise ValueError(
                f"start={self.start!r} must be a fraction of the training (a float from 0 to 1) or a number of steps (an int)"
            )
        every = self.every
        numeric = _is_count(every, 1) or (isinstance(every, float) and 0 < every < 1)
        if not (numeric or callable(every) or isinstance(every, Shrinking)):
            raise ValueError(
                f"every={every!r} must be a number of steps (an int, at least 1), a fraction of the training (a float "
                "between 0 and 1), lrpet.Shrinking, or a schedule (step) -> bool"
            )

    @property
    def needs_total_steps(self) -> bool:
        """Whether anything is given as a fraction of the training."""
        return (isinstance(self.start, float) and self.start > 0) or isinstance(self.every, float | Shrinking)

    def first_step(self, total_steps: int | None) -> int:
        """Return the first step after which a projection may come."""
        return int(self.start * (total_steps or 0)) if isinstance(self.start, float) else self.start

    def start_fraction(self, total_steps: int | None) -> float:
        """Return the fraction of the training before which nothing is projected; 0 if that cannot be told."""
        if isinstance(self.start, float):
            return self.start
        return self.start / total_steps if total_steps else 0.0

    def bound(self, total_steps: int | None) -> Callable[[int], bool]:
        """Return whether to project after a step, told its number from 1.

        Raises ValueError if the length of the training is needed and not known.
        """
        if self.needs_total_steps and total_steps is None:
            raise ValueError(
                f"start={self.start!r} and every={self.every!r} are fractions of the training: give total_steps to the "
                "projector, or both as numbers of steps"
            )
        first = self.first_step(total_steps)
        due = self._due(total_steps or 0)
        return lambda step: step >= first and due(step)

    def _due(self, total_steps: int) -> Callable[[int], bool]:
        every: Any = self.every
        if isinstance(every, Shrinking):
            return every.bound(total_steps)
        if callable(every):
            schedule: Callable[[int], bool] = every
            return schedule
        interval = max(1, int(every * total_steps)) if isinstance(every, float) else every
        return lambda step: step % interval == 0


def _is_count(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
