"""Which layer gets how much of a budget: from what a layer's ranks cost and keep to the rank of each."""

from __future__ import annotations

import heapq
import itertools
import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lrpet.planning.budget import ImpossibleBudgetError
from lrpet.planning.candidate import Ranks
from lrpet.planning.costs import uniform_rank
from lrpet.planning.knapsack import ROUNDING, Choice, solve
from lrpet.planning.spending import Spending


def divided(
    spending: Spending,
    allocate: str | Mapping[str, Any],
    kept_energy: Callable[[], Mapping[str, Sequence[float]]],
) -> tuple[Ranks, str]:
    """Return the ranks by an allocator, or by given worths or ratios, and in words how they were found.

    `kept_energy`: for every candidate the fraction kept at rank 1, 2, …; called only if it is needed.

    Raises ValueError for worths or ratios that do not fit the candidates, and if the budgets cannot be met together.
    """
    candidates = spending.candidates
    if allocate == "uniform":
        equal = dict.fromkeys(candidates, 1.0)
        ranks, keep = proportional(spending, equal)
        return _wanted(spending, ranks, equal, keep), f"uniform keep {keep:.4g}"
    if isinstance(allocate, Mapping) and any(isinstance(value, int | float) for value in allocate.values()):
        ratios = {name: _ratio(name, allocate) if each.fixed is None else 1.0 for name, each in candidates.items()}
        ranks, multiple = proportional(spending, ratios)
        return _wanted(spending, ranks, ratios, multiple), f"{multiple:.4g} times the ratios given"
    if isinstance(allocate, Mapping):
        worths = {name: _cumulated(name, each.cost.full_rank, allocate) for name, each in candidates.items()}
        ranks, short = most(spending, worths)
        return ranks, f"most worth, at most {short:.3g} short of the best"
    if allocate == "threshold":
        ranks, pruned = threshold(spending, kept_energy())
        return ranks, f"threshold: {pruned:.3g} of every layer's energy pruned"
    ranks, short = most(spending, kept_energy())
    return ranks, f"most energy, at most {short:.3g} short of the best"


def proportional(spending: Spending, ratios: Mapping[str, float]) -> tuple[Ranks, float]:
    """Return for every candidate one multiple of its ratio of full rank, at most full rank; and the largest multiple that fits.

    What rounding down left over goes to the layers that the next larger multiples would raise first.
    """

    def ranks(multiple: float) -> Ranks:
        return {
            name: each.settled(uniform_rank(each.cost.full_rank, min(1.0, multiple * ratios[name])))
            for name, each in spending.candidates.items()
        }

    def multiple_of(name: str, rank: int) -> float:
        return rank / (spending.candidates[name].cost.full_rank * ratios[name])

    levels = {multiple_of(name, rank) for name, each in spending.candidates.items() for rank in each.ranks}
    multiple = _largest(spending, [0.0, *sorted(levels)], ranks)
    return _raised(spending, ranks(multiple), multiple_of), multiple


def threshold(spending: Spending, kept: Mapping[str, Sequence[float]]) -> tuple[Ranks, float]:
    """Return the ranks at the smallest fraction of energy whose pruning from every layer fits, and that fraction.

    What is left over goes to the layers that pruning less would raise first.

    `kept`: for every candidate the fraction kept at rank 1, 2, …
    """

    def ranks(kept_everywhere: float) -> Ranks:
        return {
            name: each.settled(1 + bisect_right(kept[name], kept_everywhere - 1e-12))
            for name, each in spending.candidates.items()
        }

    level = _largest(spending, [0.0, *sorted({value for values in kept.values() for value in values})], ranks)
    return _raised(spending, ranks(level), lambda name, rank: kept[name][rank - 1]), 1 - level


def most(spending: Spending, kept: Mapping[str, Sequence[float]]) -> tuple[Ranks, float]:
    """Return the ranks that keep most, summed over the layers, and how far this can at most be short of the best.

    `kept`: for every candidate the value at rank 1, 2, … and full rank, which is also that of the dense layer.
    """
    left = {
        unit: limit - spending.totals[unit] + sum(each.cost_in(unit, None) for each in spending.candidates.values())
        for unit, limit in spending.limits.items()
    }
    choices = {
        name: [
            Choice(
                rank,
                tuple(each.cost_in(unit, rank) / left[unit] for unit in left),
                kept[name][-1] if rank is None else kept[name][rank - 1],
            )
            for rank in each.options()
        ]
        for name, each in spending.candidates.items()
    }
    found = solve(choices)
    return {name: choice.rank for name, choice in found.chosen.items()}, found.bound - found.value


def _wanted(spending: Spending, ranks: Ranks, ratios: Mapping[str, float], multiple: float) -> Ranks:
    """Return these ranks; for layers that stay dense since their rank is not worth it, that rank, as the reason."""
    wanted = dict(ranks)
    for name, each in spending.candidates.items():
        rank = each.nearest(uniform_rank(each.cost.full_rank, min(1.0, multiple * ratios[name])))
        if ranks[name] is None and each.objection(rank) is not None:
            wanted[name] = rank
    return wanted


def _largest(spending: Spending, levels: Sequence[float], ranks: Callable[[float], Ranks]) -> float:
    """Return the largest of ascending `levels` whose ranks fit. Costs must not fall as the level rises."""
    index = bisect_right(levels, False, key=lambda level: not spending.fits(ranks(level)))
    if index == 0:
        raise ImpossibleBudgetError("the budgets cannot be met together: raise one of them")
    return levels[index - 1]


def _raised(spending: Spending, ranks: Ranks, level: Callable[[str, int], float]) -> Ranks:
    """Return these ranks and what still fits: steps of one layer at a time, the one that reaches the lowest level next."""
    ranks, order = dict(ranks), {name: i for i, name in enumerate(spending.candidates)}
    steps: list[tuple[float, int, str, int]] = []

    def offer(name: str) -> None:
        each, now = spending.candidates[name], ranks[name]
        if now is not None and each.fixed is None and now < each.ranks[-1]:
            rank = each.ranks[bisect_right(each.ranks, now)]
            heapq.heappush(steps, (level(name, rank), order[name], name, rank))

    for name in ranks:
        offer(name)
    left = {unit: limit * (1 + ROUNDING) - spending.cost(unit, ranks) for unit, limit in spending.limits.items()}
    while steps:
        *_, name, rank = heapq.heappop(steps)
        each, step = spending.candidates[name], spending.candidates[name].worthwhile(rank)
        more = {unit: each.cost_in(unit, step) - each.cost_in(unit, ranks[name]) for unit in left}
        if all(more[unit] <= left[unit] for unit in left):
            ranks[name] = step
            left = {unit: left[unit] - more[unit] for unit in left}
            offer(name)
    return ranks


def _ratio(name: str, ratios: Mapping[str, Any]) -> float:
    value = ratios.get(name)
    if not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"allocate must give {name!r} a ratio above 0; got {'none' if value is None else repr(value)}")
    return float(value)


def _cumulated(name: str, full_rank: int, worths: Mapping[str, Sequence[float]]) -> list[float]:
    if name not in worths or len(worths[name]) != full_rank:
        found = f"{len(worths[name])} for it" if name in worths else "none for it"
        raise ValueError(f"allocate must give {name!r} {full_rank} worths, one a singular value; got {found}")
    values = [float(worth) for worth in worths[name]]
    if not all(0 <= value < math.inf for value in values):
        raise ValueError(f"allocate gives {name!r} a worth that is negative or not finite")
    return list(itertools.accumulate(values))
