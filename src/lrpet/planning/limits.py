"""What a layer's rank may be, whatever the budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

#: The smallest saving for which a layer is factorised: a fraction of the network's cost in the budget's unit.
MIN_SAVING = 1e-3


@dataclass(frozen=True)
class Limits:
    """Bounds of every layer's rank. Raises ValueError if one is out of range."""

    min_rank: int = 1
    max_rank: int | None = None
    multiple_of: int | Literal["auto"] = "auto"
    """A multiple for the ranks of all layers; "auto" bounds no rank here, see `lrpet.planning.friendly`."""
    min_saving: float | None = None
    """Fraction of the network's cost that factorising a layer must save; None for the default, see `lrpet.plan`."""
    factorize_all: bool = False
    """Whether layers are factorised even where that saves nothing."""

    def __post_init__(self) -> None:
        for name in ("min_rank", "max_rank", "multiple_of"):
            number: Any = getattr(self, name)
            if number is None or (name == "multiple_of" and number == "auto"):
                continue
            if not isinstance(number, int) or isinstance(number, bool) or number < 1:
                or_auto = ", or 'auto'" if name == "multiple_of" else ""
                raise ValueError(f"{name}={number!r} must be a whole number, at least 1{or_auto}")
        if self.max_rank is not None and self.max_rank < self.min_rank:
            raise ValueError(f"max_rank={self.max_rank} is below min_rank={self.min_rank}")
        if self.min_saving is not None and not 0 <= self.min_saving < 1:
            raise ValueError(
                f"min_saving={self.min_saving!r} must be a fraction of the network's cost, from 0 to below 1"
            )

    @property
    def bounds_ranks(self) -> bool:
        """Whether any rank is ruled out."""
        return (self.min_rank, self.max_rank) != (1, None) or self.multiple_of not in ("auto", 1)

    def ranks(self, full_rank: int) -> tuple[int, ...]:
        """Return the ranks within these limits, ascending; limits that a full rank cannot meet do not hold for it."""
        low = min(self.min_rank, full_rank)
        high = full_rank if self.max_rank is None else min(self.max_rank, full_rank)
        multiple = 1 if self.multiple_of == "auto" else self.multiple_of
        step = multiple if high // multiple * multiple >= low else 1
        return tuple(rank for rank in range(low, high + 1) if rank % step == 0)
