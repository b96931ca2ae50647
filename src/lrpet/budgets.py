"""From budgets to ranks: what the layers may cost together, and which allocator spends it."""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lrpet.allocate import ROUNDING, Choice, allocate
from lrpet.ranks import MatrixCost, nearest_rank, uniform_rank

#: How a budget is divided among the layers. "uniform": the same fraction of every rank. "energy": most energy kept, as the sum
#: over the layers of the fraction that each keeps. "threshold": the same fraction of energy pruned from every layer.
Allocator = Literal["uniform", "energy", "threshold"]

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
                name: min(self._options(each), key=lambda rank, each=each: each.cost_in(unit, rank))  # type: ignore[misc]
                for name, each in self.candidates.items()
            }
            if (smallest := self.cost(unit, cheapest)) > limit * (1 + ROUNDING):
                raise ValueError(
                    f"a budget of {_number(limit)} {UNITS[unit]} cannot be met: with every chosen layer at its smallest "
                    f"rank the network still has {_number(smallest)} {UNITS[unit]}. Raise the budget or choose more layers."
                )

    def proportional(self, ratios: Mapping[str, float]) -> tuple[Ranks, float]:
        """For every candidate the same multiple of its ratio of full rank, or all of it; and that multiple, the largest that
        fits. What rounding down left over goes to the layers that the next larger multiples would raise first.
        """

        def ranks(multiple: float) -> Ranks:
            return {
                name: each.settled(uniform_rank(each.cost.full_rank, min(1.0, multiple * ratios[name])))
                for name, each in self.candidates.items()
            }

        def multiple_of(name: str, rank: int) -> float:
            return rank / (self.candidates[name].cost.full_rank * ratios[name])

        levels = {multiple_of(name, rank) for name, each in self.candidates.items() for rank in each.ranks}
        multiple = self._largest([0.0, *sorted(levels)], ranks)
        return self._raised(ranks(multiple), multiple_of), multiple

    def threshold(self, kept: Mapping[str, Sequence[float]]) -> tuple[Ranks, float]:
        """The smallest fraction of energy that pruning from every layer fits, and the ranks that it gives; what is left over
        goes to the layers that pruning less would raise first.

        `kept`: for every candidate the fraction kept at rank 1, 2, …
        """

        def ranks(kept_everywhere: float) -> Ranks:
            return {
                name: each.settled(1 + bisect_right(kept[name], kept_everywhere - 1e-12))
                for name, each in self.candidates.items()
            }

        level = self._largest([0.0, *sorted({value for values in kept.values() for value in values})], ranks)
        return self._raised(ranks(level), lambda name, rank: kept[name][rank - 1]), 1 - level

    def most(self, kept: Mapping[str, Sequence[float]]) -> tuple[Ranks, float]:
        """The ranks that keep most, summed over the layers, and by how much this can at most be short of the best.

        `kept`: for every candidate the value at rank 1, 2, … and full rank, which is also that of the dense layer.
        """
        left = {
            unit: limit - self.totals[unit] + sum(each.cost_in(unit, None) for each in self.candidates.values())
            for unit, limit in self.limits.items()
        }
        choices = {
            name: [
                Choice(
                    rank,
                    tuple(each.cost_in(unit, rank) / left[unit] for unit in left),
                    kept[name][-1] if rank is None else kept[name][rank - 1],
                )
                for rank in self._options(each)
            ]
            for name, each in self.candidates.items()
        }
        found = allocate(choices)
        return {name: choice.rank for name, choice in found.chosen.items()}, found.bound - found.value

    def _options(self, candidate: Options) -> list[int | None]:
        if candidate.fixed is not None:
            return [candidate.fixed]
        ranks: list[int | None] = [rank for rank in candidate.ranks if candidate.worthwhile(rank) is not None]
        return [*ranks, None] if candidate.may_be_dense or not ranks else ranks

    def _raised(self, ranks: Ranks, level: Callable[[str, int], float]) -> Ranks:
        """These ranks and what still fits: one step of one layer at a time, the one that reaches the lowest level next."""
        ranks, order = dict(ranks), {name: i for i, name in enumerate(self.candidates)}
        next_steps: list[tuple[float, int, str, int]] = []

        def offer(name: str) -> None:
            each, now = self.candidates[name], ranks[name]
            if now is not None and each.fixed is None and now < each.ranks[-1]:
                rank = each.ranks[bisect_right(each.ranks, now)]
                heapq.heappush(next_steps, (level(name, rank), order[name], name, rank))

        for name in ranks:
            offer(name)
        left = {unit: limit * (1 + ROUNDING) - self.cost(unit, ranks) for unit, limit in self.limits.items()}
        while next_steps:
            *_, name, rank = heapq.heappop(next_steps)
            each, step = self.candidates[name], self.candidates[name].worthwhile(rank)
            more = {unit: each.cost_in(unit, step) - each.cost_in(unit, ranks[name]) for unit in left}
            if all(more[unit] <= left[unit] for unit in left):
                ranks[name] = step
                left = {unit: left[unit] - more[unit] for unit in left}
                offer(name)
        return ranks

    def _largest(self, levels: Sequence[float], ranks: Callable[[float], Ranks]) -> float:
        """The largest of ascending `levels` whose ranks fit. Costs must not fall as the level rises."""
        index = bisect_right(levels, False, key=lambda level: not self.fits(ranks(level)))
        if index == 0:
            raise ValueError("the budgets cannot be met together: raise one of them")
        return levels[index - 1]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
