"""What a layer's rank may be, whatever the budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

#: The smallest saving for which a layer is factorised: a fraction of the network's cost in the budget's unit.
MIN_SAVING = 1e-3


@dataclass(frozen=True)
class Limits:
    """Bounds of every layer's rank. Raises ValueError if one is out of range."""

    min_rank: int = 1
    max_rank: int | None = None
    multiple_of: int = 1
    min_saving: float | None = None
    """Fraction of the network's cost that factorising a layer must save; None for the default, see `lrpet.plan`."""
    factorize_all: bool = False
    """Whether layers are factorised even where that saves nothing."""

    def __post_init__(self) -> None:
        for name in ("min_rank", "max_rank", "multiple_of"):
            number: Any = getattr(self, name)
            if number is not None and (not isinstance(number, int) or isinstance(number, bool) or number < 1):
                raise ValueError(f"{name}={number!r} must be a whole number, at least 1")
        if self.max_rank is not None and self.max_rank < self.min_rank:
            raise ValueError(f"max_rank={self.max_rank} is below min_rank={self.min_rank}")
        if self.min_saving is not None and not 0 <= self.min_saving < 1:
            raise ValueError(
                f"min_saving={self.min_saving!r} must be a fraction of the network's cost, from 0 to below 1"
            )

    @property
    def bounds_ranks(self) -> bool:
        """Whether any rank is ruled out."""
        return (self.min_rank, self.max_rank, self.multiple_of) != (1, None, 1)

    def ranks(self, full_rank: int) -> tuple[int, ...]:
        """Return the ranks within these limits, ascending; limits that a full rank cannot meet do not hold for it."""
        low = min(self.min_rank, full_rank)
        high = full_rank if self.max_rank is None else min(self.max_rank, full_rank)
        step = self.multiple_of if high // self.multiple_of * self.multiple_of >= low else 1
        return tuple(rank for rank in range(low, high + 1) if rank % step == 0)
