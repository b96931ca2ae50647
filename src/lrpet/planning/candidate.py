"""A weight that may be factorised: its choices, what each costs, and the reason for the one that is taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from lrpet.planning.budget import UNITS
from lrpet.planning.costs import MatrixCost, nearest_rank

#: {candidate name: rank, or None for staying dense}.
Ranks = dict[str, int | None]


@dataclass(frozen=True)
class Candidate:
    """The weight of one layer, or of all layers that share it, and the ranks that it may have."""

    cost: MatrixCost
    """Cost of all its uses."""
    ranks: tuple[int, ...]
    """The allowed ranks, ascending."""
    fixed: int | None = None
    """A rank that was asked for, whatever the budget."""
    may_be_dense: bool = True
    itemsize: int = 4
    """Bytes of each weight."""
    least_savings: Mapping[str, float] = field(default_factory=dict)
    """{unit: what factors must save}; they are worth it if they save that much in one of the units."""
    milliseconds: Callable[[int | None], float] | None = None
    """Measured time at a rank, or dense (None), if anything was measured."""

    def cost_in(self, unit: str, rank: int | None) -> float:
        """Return the cost at `rank`, or dense, in a unit of `lrpet.planning.budget.UNITS`."""
        if unit == "latency":
            assert self.milliseconds is not None
            return self.milliseconds(rank)
        if unit == "macs":
            return self.cost.macs(rank)
        return self.cost.params(rank) * (self.itemsize if unit == "bytes" else 1)

    def nearest(self, wanted: int) -> int:
        """Return the rank that was asked for; else the largest allowed one up to `wanted`, or the smallest there is."""
        return nearest_rank(self.ranks, wanted) if self.fixed is None else self.fixed

    def settled(self, wanted: int) -> int | None:
        """Return the nearest rank; None, dense, if that is not worth it."""
        return self.worthwhile(self.nearest(wanted))

    def worthwhile(self, rank: int) -> int | None:
        """Return `rank`; None, dense, if its factors are not worth it."""
        return rank if self.objection(rank) is None else None

    def objection(self, rank: int) -> str | None:
        """Say why factors of this rank are not worth it; None if they are, or if the layer may not stay dense."""
        if not self.may_be_dense:
            return None
        if not self.cost.saves(rank):
            return f"factors of rank {rank} would cost as much or more"
        if self.milliseconds is not None and not self.milliseconds(rank) < self.milliseconds(None):
            return f"factors of rank {rank} were measured to be no faster"
        if self.fixed is None and self.least_savings:
            saved = {unit: self.cost_in(unit, None) - self.cost_in(unit, rank) for unit in self.least_savings}
            if all(saved[unit] < least for unit, least in self.least_savings.items()):
                unit = next(iter(saved))
                return f"factors of rank {rank} would save {saved[unit]:,.0f} {UNITS[unit]} only"
        return None

    def options(self) -> list[int | None]:
        """Return the choices: the ranks that are worth it, and staying dense."""
        if self.fixed is not None:
            return [self.worthwhile(self.fixed)]
        ranks: list[int | None] = [rank for rank in self.ranks if self.objection(rank) is None]
        return [*ranks, None] if self.may_be_dense or not ranks else ranks

    def why_dense(self, wanted: int | None) -> str:
        """Say why the layer stays dense, given the rank that was wanted for it, if any was."""
        if wanted is not None and (objection := self.objection(wanted)) is not None:
            return objection
        if self.options() == [None]:
            return self.objection(self.nearest(1)) or "no rank is allowed"
        return "the budget is spent best with this layer whole"
