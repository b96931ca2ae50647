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
        draw(st.integers(1, 500)),
        first=first,
        last=draw(st.integers(1, first)),
        start=draw(st.floats(0, 1, exclude_max=True)),
    )


@given(schedules())
def test_intervals_shrink_from_first_to_last(schedule: lrpet.Shrinking) -> None:
    due = [step for step in range(1, schedule.total_steps + 50) if schedule(step)]
    assert due[-1] == schedule.total_steps
    intervals = [after - before for before, after in zip([0, *due], due, strict=False)]
    first = schedule.first
    assert first is not None
    whole = intervals[:-1]  # the last may be cut short by the end
    assert whole == sorted(whole, reverse=True)
    assert all(schedule.last <= interval <= first for interval in whole)
    for step, interval in zip([0, *due], whole, strict=False):
        if step < schedule.start * schedule.total_steps:
            assert interval == first


def test_an_example_by_hand() -> None:
    schedule = lrpet.Shrinking(200, first=40, last=10, start=0.5)
    assert [step for step in range(201) if schedule(step)] == [40, 80, 120, 150, 170, 185, 197, 200]
    assert pickle.loads(pickle.dumps(schedule)) == schedule


def test_as_it_comes_it_starts_half_way() -> None:
    due = [step for step in range(1001) if lrpet.Shrinking(1000)(step)]
    assert due[0] == 500
    assert due[1] - due[0] == 50  # 500·(5/500)^(1/2)
    assert due[-1] - due[-2] <= 5


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
    assert make_config({"keep": 0.5, "every": "epoch"}).projection_schedule(100) == 100
    half = make_config({"keep": 0.5, "epochs": 8, "every": 0.5}).projection_schedule(100)
    assert isinstance(half, lrpet.Shrinking)
    assert half.steps == lrpet.Shrinking(800).steps
    third = make_config({"keep": 0.5, "epochs": 3, "every": 0.25, "every_last": 2, "shrink_from": 0.5})
    assert third.projection_schedule(100) == lrpet.Shrinking(300, first=75, last=2, start=0.5)
    for wrong in (0, 0.0, 1.5, -1):
        with pytest.raises(ValueError, match="must be at least 1, a fraction between 0 and 1, or 'epoch'"):
            make_config({"keep": 0.5, "every": wrong})
    falling = make_config({"keep": 0.5, "every": "epoch", "every_last": 5, "epochs": 8, "shrink_from": 0.25})
    assert falling.projection_schedule(100) == lrpet.Shrinking(800, first=100, last=5, start=0.25)
    with pytest.raises(ValueError, match="every_last=40 must be at most every=30"):
        make_config({"keep": 0.5, "every": 30, "every_last": 40})


def test_when_a_config_begins() -> None:
    """Half-way where the interval is a number of steps that stays; from the start where a schedule is asked for by name."""
    usual = make_config({"keep": 0.5, "epochs": 8})
    assert (usual.projection_schedule(100), usual.projection_start(100)) == (5, 400)
    for asked in ({"every": "epoch"}, {"every": 0.5}, {"every": 9, "every_last": 3}, {"project_from": 0}):
        assert make_config({"keep": 0.5, "epochs": 8, **asked}).projection_start(100) == 0
    assert make_config({"keep": 0.5, "epochs": 8, "every": "epoch", "project_from": 0.75}).projection_start(100) == 600
    with pytest.raises(ValueError, match="project_from=1"):
        make_config({"keep": 0.5, "project_from": 1.0})
