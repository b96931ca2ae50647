"""When to project: schedules for `Projector(every=...)`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True, kw_only=True)
class Shrinking:
    """Project every `first` steps until the fraction `start` of a training, then ever more often, and at its last step.

    From there the interval falls geometrically, to `last` steps at the end. Far from the end the weights are free to move.
    Near it each projection takes away so little that batch norm's statistics hold, and training goes on around the low-rank
    matrices themselves. By default the first projection is half-way through.

        interval(t) = first · (last/first)^((t/total_steps − start) / (1 − start))    for t ≥ start·total_steps

    Args:
        first: Steps between projections at first. An int counts steps and is at least `last`. A float is a fraction of the
            training, above 0 and below 1. None is half of the training.
        last: Steps between projections at the end, at least 1. Where `first` as a fraction comes to fewer, every interval is
            that many steps.
        start: Fraction of the training after which intervals shrink, at least 0 and below 1.

    Raises:
        ValueError: A number is out of range.
    """

    first: int | float | None = None
    last: int = 5
    start: float = 0.0

    def __post_init__(self) -> None:
        if not _counts(self.last):
            raise ValueError(f"got last={self.last!r}: give a number of steps, at least 1")
        if isinstance(self.first, float):
            if not 0 < self.first < 1:
                raise ValueError(f"got first={self.first!r}: give a fraction above 0 and below 1, or an int of steps")
        elif self.first is not None and not (_counts(self.first) and self.first >= self.last):
            raise ValueError(
                f"got first={self.first!r} and last={self.last!r}: intervals shrink, so that first must be at least last"
            )
        if not 0 <= self.start < 1:
            raise ValueError(f"got start={self.start!r}: give a fraction of the training, at least 0 and below 1")

    def bound(self, total_steps: int) -> ShrinkingSteps:
        """Compute the schedule of a training of this many steps; `Projector` does so with its own `total_steps`.

        Raises:
            ValueError: `total_steps` is below 1.
        """
        if not _counts(total_steps):
            raise ValueError(f"got total_steps={total_steps!r}: give the length of the training in steps, at least 1")
        if self.first is None:
            first = max(self.last, total_steps // 2)
        elif isinstance(self.first, float):
            first = max(1, int(self.first * total_steps))
        else:
            first = self.first
        return ShrinkingSteps(total_steps=total_steps, first=first, last=min(self.last, first), start=self.start)


@dataclass(frozen=True, kw_only=True)
class ShrinkingSteps:
    """The steps at which a training of known length projects, made by `Shrinking.bound`."""

    total_steps: int
    """Length of the training in steps."""
    first: int
    """Steps between projections at first."""
    last: int
    """Steps between projections at the end."""
    start: float
    """Fraction of the training after which intervals shrink."""

    def interval(self, step: int) -> int:
        """Compute the number of steps from a projection at `step` to the next."""
        part = max(0.0, (step / self.total_steps - self.start) / (1 - self.start))
        return max(self.last, round(self.first * math.pow(self.last / self.first, part)))

    @cached_property
    def steps(self) -> frozenset[int]:
        """All steps at which to project."""
        steps, step = {self.total_steps}, 0
        while (step := step + self.interval(step)) < self.total_steps:
            steps.add(step)
        return frozenset(steps)

    def __call__(self, step: int) -> bool:
        """Tell whether to project after the step with this number, from 1."""
        return step in self.steps


def _counts(steps: object) -> bool:
    return isinstance(steps, int) and not isinstance(steps, bool) and steps >= 1
