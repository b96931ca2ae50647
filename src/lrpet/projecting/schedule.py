"""When to project: schedules for `Projector(every=...)`."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from functools import cached_property


@dataclass(frozen=True)
class Shrinking:
    """Project every `first` steps until the fraction `start` of a training, then ever more often, and at its last step.

    From there the interval falls geometrically, to `last` steps at the end. Far from the end the weights are free to move;
    near it each projection takes away so little that batch norm's statistics hold, and training goes on around the low-rank
    matrices themselves. As it comes, the first projection is half-way through.

        interval(t) = first · (last/first)^((t/total_steps − start) / (1 − start))    for t ≥ start·total_steps

    Args:
        total_steps: Length of the training.
        first: Steps between projections at first, at least 1; half of all steps if None.
        last: Steps between projections at the end, from 1 to `first`.
        start: In [0, 1).

    Raises ValueError if a number is out of range.
    """

    total_steps: int
    _: KW_ONLY
    first: int | None = None
    last: int = 5
    start: float = 0.0

    def __post_init__(self) -> None:
        if self.total_steps < 1:
            raise ValueError(f"total_steps={self.total_steps!r} must be at least 1")
        if not 1 <= self.last <= self._first:
            raise ValueError(
                f"intervals must shrink, to at least 1 step: got first={self._first!r}, last={self.last!r}"
            )
        if not 0 <= self.start < 1:
            raise ValueError(f"start={self.start!r} must be at least 0 and below 1")

    @property
    def _first(self) -> int:
        return max(self.last, self.total_steps // 2) if self.first is None else self.first

    def interval(self, step: int) -> int:
        """Steps from a projection at `step` to the next."""
        part = max(0.0, (step / self.total_steps - self.start) / (1 - self.start))
        return max(self.last, round(self._first * math.pow(self.last / self._first, part)))

    @cached_property
    def steps(self) -> frozenset[int]:
        """All steps at which to project."""
        steps, step = {self.total_steps}, 0
        while (step := step + self.interval(step)) < self.total_steps:
            steps.add(step)
        return frozenset(steps)

    def __call__(self, step: int) -> bool:
        """Whether to project after the step with this number, from 1."""
        return step in self.steps
