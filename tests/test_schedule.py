"""Schedules of projections."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import lrpet
from lrpet.train.config import make_config


@st.composite
def schedules(draw: st.DrawFn) -> lrpet.Shrinking:
    first = draw(st.integers(1, 60))
    return lrpet.Shrinking(
        first,
        draw(st.integers(1, first)),
        total_steps=draw(st.integers(1, 500)),
        start=draw(st.floats(0, 1, exclude_max=True)),
    )


@given(schedules())
def test_intervals_shrink_from_first_to_last(schedule: lrpet.Shrinking) -> None:
    due = [step for step in range(1, schedule.total_steps + 50) if schedule(step)]
    assert due[-1] == schedule.total_steps
    intervals = [after - before for before, after in zip([0, *due], due, strict=False)]
    whole = intervals[:-1]  # the last may be cut short by the end
    assert whole == sorted(whole, reverse=True)
    assert all(schedule.last <= interval <= schedule.first for interval in whole)
    for step, interval in zip([0, *due], whole, strict=False):
        if step < schedule.start * schedule.total_steps:
            assert interval == schedule.first


def test_an_example_by_hand() -> None:
    schedule = lrpet.Shrinking(40, 10, total_steps=200, start=0.5)
    assert [step for step in range(201) if schedule(step)] == [40, 80, 120, 150, 170, 185, 197, 200]
    assert pickle.loads(pickle.dumps(schedule)) == schedule


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"first": 5, "last": 6}, "must shrink.*first=5, last=6"),
        ({"first": 5, "last": 0}, "at least 1 step"),
        ({"total_steps": 0}, "total_steps=0"),
        ({"start": 1.0}, "start=1.0"),
        ({"start": -0.1}, "start=-0.1"),
    ],
)
def test_bad_schedules_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lrpet.Shrinking(**{"first": 9, "last": 3, "total_steps": 100, **options})


def test_in_a_config() -> None:
    constant = make_config({"keep": 0.5, "every": 30})
    assert constant.projection_schedule(100) == 30
    assert make_config({"keep": 0.5}).projection_schedule(100) == 100
    falling = make_config({"keep": 0.5, "every_last": 5, "epochs": 8, "shrink_from": 0.25})
    assert falling.projection_schedule(100) == lrpet.Shrinking(100, 5, total_steps=800, start=0.25)
    with pytest.raises(ValueError, match="every_last=40 must be at most every=30"):
        make_config({"keep": 0.5, "every": 30, "every_last": 40})
