"""Ranks of small layers within a budget, against trying all of them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lrpet.planning.allocators import most, proportional, threshold
from lrpet.planning.candidate import Candidate
from lrpet.planning.costs import MatrixCost, uniform_rank
from lrpet.planning.spending import Spending

quick = settings(max_examples=150, deadline=None, derandomize=True)


def spectra(sizes: Sequence[tuple[int, int]], seed: int) -> tuple[Spending, dict[str, list[float]]]:
    """Small layers with random spectra, and what each rank keeps of each."""
    generator = torch.Generator().manual_seed(seed)
    candidates, kept = {}, {}
    for i, (rows, columns) in enumerate(sizes):
        cost = MatrixCost(rows, columns, positions=1 + i)
        values = torch.rand(cost.full_rank, generator=generator).sort(descending=True).values.square()
        kept[str(i)] = (values.cumsum(0) / values.sum()).tolist()
        candidates[str(i)] = Candidate(cost, tuple(range(1, cost.full_rank + 1)))
    totals = {
        "macs": sum(each.cost.macs() for each in candidates.values()),
        "params": sum(each.cost.params() for each in candidates.values()),
    }
    return Spending(candidates, totals, {}), kept


@quick
@example([(3, 3)], 0.9999999999999999, 0)
@given(
    st.lists(st.tuples(st.integers(3, 6), st.integers(3, 7)), min_size=1, max_size=4),
    st.floats(0.1, 1),
    st.integers(0, 99),
)
def test_allocators_against_trying_all_ranks(sizes: list[tuple[int, int]], fraction: float, seed: int) -> None:
    spending, kept = spectra(sizes, seed)
    spending = Spending(spending.candidates, spending.totals, {"macs": fraction * spending.totals["macs"]})
    options = [[rank for rank in each.ranks if each.cost.saves(rank)] + [None] for each in spending.candidates.values()]
    every = [dict(zip(spending.candidates, ranks, strict=True)) for ranks in itertools.product(*options)]

    def worth(ranks: Mapping[str, int | None]) -> float:
        return sum(1.0 if rank is None else kept[name][rank - 1] for name, rank in ranks.items())

    fitting = [ranks for ranks in every if spending.fits(ranks)]
    if not fitting:
        with pytest.raises(ValueError, match="cannot be met"):
            spending.check_possible()
        return
    spending.check_possible()
    ranks, short = most(spending, kept)
    assert spending.fits(ranks)
    assert worth(ranks) <= max(map(worth, fitting)) + 1e-9 <= worth(ranks) + short + 2e-9

    for ratios in (dict.fromkeys(kept, 1.0), {name: 1 / (1 + i) for i, name in enumerate(kept)}):
        by_ratio, multiple = proportional(spending, ratios)

        def at(level: float, ratios: Mapping[str, float] = ratios) -> dict[str, int | None]:
            return {
                name: each.settled(uniform_rank(each.cost.full_rank, min(1.0, level * ratios[name])))
                for name, each in spending.candidates.items()
            }

        full = {name: each.cost.full_rank for name, each in spending.candidates.items()}
        levels = [r / (full[name] * ratios[name]) for name in full for r in range(1, full[name] + 1)]
        assert multiple == max((level for level in levels if spending.fits(at(level))), default=0.0)
        assert_spent(spending, by_ratio, at(multiple))

    by_threshold, pruned = threshold(spending, kept)
    enough = {
        name: each.settled(1 + sum(value < 1 - pruned - 1e-9 for value in kept[name]))
        for name, each in spending.candidates.items()
    }
    assert_spent(spending, by_threshold, enough)


def assert_spent(spending: Spending, ranks: Mapping[str, int | None], at_least: Mapping[str, int | None]) -> None:
    """The ranks fit, are no lower than these, and no layer could have one more."""
    assert spending.fits(ranks)
    for name, rank in ranks.items():
        least = at_least[name]
        assert rank is None or (least is not None and rank >= least)
        if rank is not None and rank < spending.candidates[name].cost.full_rank:
            assert not spending.fits({**ranks, name: spending.candidates[name].worthwhile(rank + 1)})
