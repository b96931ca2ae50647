"""Ranks from budgets, against exact rational arithmetic and brute force."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrpet.ranks import MatrixCost, uniform_keep, uniform_rank, uniform_ranks

quick = settings(max_examples=200, deadline=None, derandomize=True)


def exact_rank(full_rank: int, keep: Fraction) -> int:
    return max(1, full_rank * keep.numerator // keep.denominator)


@pytest.mark.parametrize(("full_rank", "keep", "rank"), [(100, 0.29, 29), (64, 0.38, 24), (16, 0.43, 6), (3, 0.1, 1)])
def test_known_ranks(full_rank: int, keep: float, rank: int) -> None:
    assert uniform_rank(full_rank, keep) == rank


def test_every_decimal_of_up_to_three_digits() -> None:
    """As written (keep=0.29), and as computed from the paper's pruning ratio (1 − 0.71 is 0.29000000000000004)."""
    for thousandths in range(1, 1001):
        written, computed = float(f"{thousandths / 1000:.3f}"), 1 - (1000 - thousandths) / 1000
        for full_rank in range(1, 2049):
            exact = max(1, full_rank * thousandths // 1000)
            assert uniform_rank(full_rank, written) == exact, (full_rank, written)
            assert uniform_rank(full_rank, computed) == exact, (full_rank, computed)


@quick
@given(st.integers(1, 2048), st.fractions(min_value=0, max_value=1, max_denominator=2048))
def test_rational_fractions(full_rank: int, keep: Fraction) -> None:
    assert uniform_rank(full_rank, float(keep)) == exact_rank(full_rank, keep)


@quick
@given(st.integers(1, 2048), st.floats(0, 1))
def test_the_rank_is_always_possible(full_rank: int, keep: float) -> None:
    assert 1 <= uniform_rank(full_rank, keep) <= full_rank


def test_costs_of_a_layer() -> None:
    """64 filters over 64 channels of 3×3, at 8×8 positions: r·(c·k² + n) multiply-adds a position."""
    layer = MatrixCost(rows=64, columns=576, positions=64)
    assert layer.full_rank == 64
    assert (layer.params(), layer.params(24)) == (36864, 24 * 640)
    assert (layer.macs(), layer.macs(24)) == (64 * 36864, 64 * 24 * 640)
    assert layer.saves(57)  # 57·640 = 36480
    assert not layer.saves(58)  # 58·640 = 37120
    assert not MatrixCost(rows=2, columns=2, positions=1).saves(1)  # 4 = 4: no gain


sizes = st.builds(MatrixCost, rows=st.integers(1, 12), columns=st.integers(1, 20), positions=st.integers(1, 9))


@quick
@given(st.lists(sizes, min_size=1, max_size=4), st.floats(0.01, 1.2), st.booleans())
def test_uniform_keep_is_what_brute_force_finds(
    costs: list[MatrixCost], fraction: float, dense_if_cheaper: bool
) -> None:
    layers = {str(index): layer for index, layer in enumerate(costs)}

    def cost(ranks: Mapping[str, int]) -> int:
        both = [(layers[name].macs(rank), layers[name].macs()) for name, rank in ranks.items()]
        return sum(min(pair) if dense_if_cheaper else pair[0] for pair in both)

    keeps = sorted({Fraction(rank, layer.full_rank) for layer in costs for rank in range(1, layer.full_rank + 1)})
    possible = [cost({name: exact_rank(layer.full_rank, keep) for name, layer in layers.items()}) for keep in keeps]
    budget = fraction * sum(layer.macs() for layer in costs)
    if possible[0] > budget:
        with pytest.raises(ValueError, match=f"still has {possible[0]:,} multiply-adds"):
            uniform_keep(layers, budget, cost, what="multiply-adds")
        return
    found = uniform_keep(layers, budget, cost, what="multiply-adds")
    assert cost(uniform_ranks(layers, found)) == max(each for each in possible if each <= budget)


def test_a_budget_that_is_met_exactly_is_met() -> None:
    layers = {"a": MatrixCost(rows=10, columns=40, positions=3)}

    def cost(ranks: Mapping[str, int]) -> int:
        return layers["a"].params(ranks["a"])

    for rank in range(1, 11):
        assert uniform_keep(layers, 50 * rank, cost, what="parameters") == rank / 10


def test_no_layer_to_choose() -> None:
    with pytest.raises(ValueError, match="no layer of this network was chosen"):
        uniform_keep({}, 1.0, lambda _: 0, what="parameters")
