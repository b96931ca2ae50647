"""Ranks that hardware likes: the multiples that runtimes compute in, and what is left of a budget between them.

A convolution's time rises in steps, as runtimes pad its channels to blocks of 8 (AVX2) or 16 (AVX-512): a rank between two
multiples takes as long as the higher one, and in ONNX Runtime longer. Linears have no steps. Layers of a full rank of 64 or
more therefore get multiples of 16, others multiples of 8, and layers with a full rank below 16 any rank. A network without
a full rank of 128 gets multiples of 8 at most: all its layers are narrow, and steps of 16 would cost it accuracy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from lrpet.planning.budget import ImpossibleBudgetError
from lrpet.planning.candidate import Candidate, Ranks
from lrpet.planning.costs import MatrixCost
from lrpet.planning.knapsack import ROUNDING
from lrpet.planning.spending import Spending

#: (full rank, widest, multiple): layers from this full rank on get this multiple, if the network has one of `widest` or more.
MULTIPLES = ((64, 128, 16), (16, 16, 8))
#: A layer's lowest rank may cost this many times the layer's share of the budget; else the multiple is halved.
COARSEST = 1.5
#: A budget counts as met if this fraction of it, or less, is left.
LEFT_OVER = 0.01


def multiple_for(full_rank: int, *, widest: int) -> int:
    """Return the multiple for the ranks of a layer, where no budget is tight; `widest` is the network's highest full rank."""
    fitting = (multiple for least, wide, multiple in MULTIPLES if full_rank >= least and widest >= wide)
    return next(fitting, 1)


def friendly_multiple(cost: MatrixCost, share: float, *, widest: int) -> int:
    """Return the multiple for a layer's ranks, where the budget leaves `share` of the network's cost."""
    multiple = multiple_for(cost.full_rank, widest=widest)
    affordable = COARSEST * share * cost.params() / cost.params(1)
    while multiple > max(1.0, affordable):
        multiple //= 2
    return multiple


def divided_friendly(
    spending: Spending, divided: Callable[[Spending], tuple[Ranks, Any]]
) -> tuple[Spending, Ranks, Any]:
    """Divide the budget among friendly ranks, and return the candidates with these, the ranks, and what else came back.

    Where the budget cannot be met so, the multiples are those of half the budget, a quarter, and so on to any rank.

    `divided`: an allocator. `spending`: the candidates with every rank that they may have.

    Raises ImpossibleBudgetError if no choice of ranks meets the budget.
    """
    share = min(limit / spending.totals[unit] for unit, limit in spending.limits.items())
    while (friendly := _narrowed(spending, share)) != spending:
        try:
            ranks, rest = divided(friendly)
        except ImpossibleBudgetError:
            share /= 2
        else:
            return friendly, topped_up(spending, ranks), rest
    return spending, *divided(spending)


def _narrowed(spending: Spending, share: float) -> Spending:
    widest = max((each.cost.full_rank for each in spending.candidates.values()), default=0)
    candidates = {name: _friendly(each, share, widest) for name, each in spending.candidates.items()}
    return replace(spending, candidates=candidates)


def _friendly(candidate: Candidate, share: float, widest: int) -> Candidate:
    multiple = friendly_multiple(candidate.cost, share, widest=widest)
    ranks = tuple(rank for rank in candidate.ranks if rank % multiple == 0)
    return replace(candidate, ranks=ranks or candidate.ranks)


def topped_up(spending: Spending, ranks: Mapping[str, int | None]) -> Ranks:
    """Return the ranks, a few of them raised to any rank that fits, so that a budget is met within 1 %.

    `spending`: the candidates with every rank that they may have. One layer at a time is raised, the one whose raise uses
    most of what is left.
    """
    ranks = dict(ranks)
    while True:
        # A rank that is not worth it says why its layer stays dense.
        taken = {
            name: None if rank is None else spending.candidates[name].worthwhile(rank) for name, rank in ranks.items()
        }
        used = {unit: spending.cost(unit, taken) / limit for unit, limit in spending.limits.items()}
        if max(used.values()) >= 1 - LEFT_OVER:
            return ranks
        raises = [raised for name in ranks if (raised := _raise(spending, name, taken[name], used)) is not None]
        if not raises:
            return ranks
        _, name, rank = max(raises, key=lambda each: each[0])
        ranks[name] = rank


def _raise(spending: Spending, name: str, now: int | None, used: Mapping[str, float]) -> tuple[float, str, int] | None:
    """Return the largest raise of a layer that fits, as (what it uses of the budgets, name, rank); None if none does."""
    each = spending.candidates[name]
    if now is None or each.fixed is not None:
        return None
    for rank in reversed(each.ranks):
        if rank <= now:
            return None
        more = {
            unit: (each.cost_in(unit, rank) - each.cost_in(unit, now)) / limit
            for unit, limit in spending.limits.items()
        }
        if all(used[unit] + more[unit] <= 1 + ROUNDING for unit in more) and each.objection(rank) is None:
            return max(more.values()), name, rank
    return None
