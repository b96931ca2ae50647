"""Ranks from budgets, against exact rational arithmetic and brute force."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrpet.planning.costs import MatrixCost, uniform_rank
from lrpet.planning.limits import Limits

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


@pytest.mark.parametrize(
    ("limits", "ranks"),
    [
        ({}, (1, 2, 3, 4, 5, 6, 7)),
        ({"min_rank": 3, "max_rank": 5}, (3, 4, 5)),
        ({"multiple_of": 3}, (3, 6)),
        ({"multiple_of": 8}, (1, 2, 3, 4, 5, 6, 7)),  # a rank of 7 has no multiple of 8
        ({"min_rank": 9}, (7,)),
        ({"min_rank": 4, "max_rank": 5, "multiple_of": 3}, (4, 5)),
    ],
)
def test_allowed_ranks(limits: dict[str, Any], ranks: tuple[int, ...]) -> None:
    assert Limits(**limits).ranks(7) == ranks
