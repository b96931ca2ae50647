"""Budgets: what the layers cost, each at its ranks and all together, and what they may cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lrpet.planning.costs import MatrixCost, nearest_rank
from lrpet.planning.knapsack import ROUNDING

UNITS = {"macs": "multiply-adds", "params": "parameters", "bytes": "bytes", "latency": "milliseconds"}


@dataclass(frozen=True)
class Options:
    """A weight that may be factorised: its cost at each rank, and the ranks that it may have."""

    cost: MatrixCost
    itemsize: int
    """Bytes of each of its numbers."""
    ranks: tuple[int, ...]
    """Allowed ones, ascending."""
    fixed: int | None = None
    """A rank that was asked for, whatever the budget."""
    may_be_dense: bool = True
    milliseconds: Callable[[int | None], float] | None = None
    """What was measured, if anything was."""

    def cost_in(self, unit: str, rank: int | None) -> float:
        """At `rank`, or dense."""
        if unit == "latency":
            assert self.milliseconds is not None
            return self.milliseconds(rank)
        if unit == "macs":
            return self.cost.macs(rank)
        return self.cost.params(rank) * (self.itemsize if unit == "bytes" else 1)

    def nearest(self, wanted: int) -> int:
        """The rank that was asked for; else the largest allowed one up to `wanted`, or the smallest there is."""
        return nearest_rank(self.ranks, wanted) if self.fixed is None else self.fixed

    def settled(self, wanted: int) -> int | None:
        """The same; None, dense, if that saves nothing."""
        return self.worthwhile(self.nearest(wanted))

    def worthwhile(self, rank: int) -> int | None:
        """`rank`, unless the layer may stay dense and its factors would save nothing, or were measured to be no faster."""
        if not self.may_be_dense:
            return rank
        faster = self.milliseconds is None or self.milliseconds(rank) < self.milliseconds(None)
        return rank if faster and self.cost.saves(rank) else None


Ranks = dict[str, int | None]


@dataclass(frozen=True)
class Spending:
    """The candidates, and the limits that hold for them together: budget minus what the rest of the network costs."""

    candidates: Mapping[str, Options]
    totals: Mapping[str, float]
    """{unit: cost of the dense network}."""
    limits: Mapping[str, float]
    """{unit: most that the compact network may cost}."""

    def cost(self, unit: str, ranks: Mapping[str, int | None]) -> float:
        """Of the whole network, the candidates at `ranks`."""
        saved = (each.cost_in(unit, None) - each.cost_in(unit, ranks[name]) for name, each in self.candidates.items())
        return self.totals[unit] - sum(saved)

    def fits(self, ranks: Mapping[str, int | None]) -> bool:
        """Whether every limit is kept."""
        return all(self.cost(unit, ranks) <= limit * (1 + ROUNDING) for unit, limit in self.limits.items())

    def check_possible(self) -> None:
        """Raise ValueError that names the smallest possible cost if a limit is below it."""
        if not self.candidates:
            raise ValueError(
                "no layer of this network was chosen to be factorised: widen `include`, or check the plan's table"
            )
        for unit, limit in self.limits.items():
            cheapest = {
                name: min(self.options(name), key=lambda rank, each=each: each.cost_in(unit, rank))  # type: ignore[misc]
                for name, each in self.candidates.items()
            }
            if (smallest := self.cost(unit, cheapest)) > limit * (1 + ROUNDING):
                raise ValueError(
                    f"a budget of {_number(limit)} {UNITS[unit]} cannot be met: with every chosen layer at its smallest "
                    f"rank the network still has {_number(smallest)} {UNITS[unit]}. Raise the budget or choose more layers."
                )

    def options(self, name: str) -> list[int | None]:
        """What a candidate may come to: the ranks that are worth it, or dense."""
        each = self.candidates[name]
        if each.fixed is not None:
            return [each.fixed]
        ranks: list[int | None] = [rank for rank in each.ranks if each.worthwhile(rank) is not None]
        return [*ranks, None] if each.may_be_dense or not ranks else ranks


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
