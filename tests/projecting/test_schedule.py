"""Schedules of projections."""

from __future__ import annotations

import math
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import lrpet

intervals = st.integers(1, 60).flatmap(lambda first: st.tuples(st.just(first), st.integers(1, first)))
totals = st.integers(1, 500)
starts = st.floats(0, 1, exclude_max=True)


def by_definition(total: int, first: int, last: int, start: float) -> list[int]:
    """Compute the steps that project: the formula, one step after another."""
    due: list[int] = []
    step = 0
    while True:
        part = max(0.0, (step / total - start) / (1 - start))
        step += max(last, round(first * math.pow(last / first, part)))
        if step >= total:
            return [*due, total]
        due.append(step)


def due_steps(schedule: lrpet.Shrinking, total: int) -> list[int]:
    due = schedule.bound(total)
    return [step for step in range(total + 50) if due(step)]


@given(totals, intervals, starts)
def test_steps_are_those_of_the_formula(total: int, ends: tuple[int, int], start: float) -> None:
    first, last = ends
    schedule = lrpet.Shrinking(first=first, last=last, start=start)
    assert due_steps(schedule, total) == by_definition(total, first, last, start)


@given(totals, st.integers(1, 60), starts)
def test_by_default_the_first_interval_is_half_of_the_training(total: int, last: int, start: float) -> None:
    due = due_steps(lrpet.Shrinking(last=last, start=start), total)
    assert due == by_definition(total, max(last, total // 2), last, start)


@given(totals, st.floats(0, 1, exclude_min=True, exclude_max=True), st.integers(1, 60), starts)
def test_a_float_is_a_fraction_of_the_training(total: int, fraction: float, last: int, start: float) -> None:
    """Where it comes to fewer steps than `last`, the interval is constant."""
    first = max(1, int(fraction * total))
    due = due_steps(lrpet.Shrinking(first=fraction, last=last, start=start), total)
    assert due == by_definition(total, first, min(last, first), start)


@given(totals, intervals, starts)
def test_intervals_shrink_from_first_to_last(total: int, ends: tuple[int, int], start: float) -> None:
    first, last = ends
    due = due_steps(lrpet.Shrinking(first=first, last=last, start=start), total)
    assert due[-1] == total
    found = [after - before for before, after in zip([0, *due], due, strict=False)]
    whole = found[:-1]  # the last may be cut short by the end
    assert whole == sorted(whole, reverse=True)
    assert all(last <= interval <= first for interval in whole)
    for step, interval in zip([0, *due], whole, strict=False):
        if step < start * total:
            assert interval == first


def test_an_example_by_hand() -> None:
    schedule = lrpet.Shrinking(first=40, last=10, start=0.5)
    bound = schedule.bound(200)
    assert [step for step in range(201) if bound(step)] == [40, 80, 120, 150, 170, 185, 197, 200]
    assert lrpet.Shrinking(first=0.2, last=10, start=0.5).bound(200) == bound
    assert pickle.loads(pickle.dumps(schedule)) == schedule
    assert pickle.loads(pickle.dumps(bound)).steps == bound.steps


def test_as_it_comes_it_starts_half_way() -> None:
    due = due_steps(lrpet.Shrinking(), 1000)
    assert due[0] == 500
    assert due[1] - due[0] == 50  # 500·(5/500)^(1/2)
    assert due[-1] - due[-2] <= 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"first": 5, "last": 6}, "first=5 and last=6: intervals shrink"),
        ({"first": True}, "first=True and last=3"),
        ({"last": 0}, "last=0: give a number of steps, at least 1"),
        ({"last": 2.0}, "last=2.0"),
        ({"first": 1.0}, "first=1.0: give a fraction above 0 and below 1, or an int"),
        ({"first": 0.0}, "first=0.0"),
        ({"first": math.nan}, "first=nan"),
        ({"start": 1.0}, "start=1.0"),
        ({"start": -0.1}, "start=-0.1"),
    ],
)
def test_bad_schedules_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lrpet.Shrinking(**{"first": 9, "last": 3, **options})


@pytest.mark.parametrize("total", [0, -1, 10.0, True])
def test_a_training_has_at_least_one_step(total: Any) -> None:
    with pytest.raises(ValueError, match=f"total_steps={total!r}: give the length of the training"):
        lrpet.Shrinking().bound(total)
