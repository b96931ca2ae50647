"""Ranks that fall while training, and budgets divided again by trained weights."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import lrpet
from helpers import images
from helpers import small_network as network

X, Y = images(16, 3, 6, 6), torch.arange(16) % 4


def rank_of(weight: Any) -> int:
    values = torch.linalg.svdvals(weight.detach().flatten(1))
    return int((values > 1e-5 * values[0]).sum())


def train(model: nn.Module, projector: lrpet.Projector, steps: int) -> list[dict[str, int]]:
    """Train for some steps and return the ranks of each projection."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    seen = []
    for _ in range(steps):
        nn.functional.cross_entropy(model(X), Y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        if (report := projector.step()) is not None:
            seen.append({name: layer.rank for name, layer in report.layers.items()})
    return seen


@given(
    st.integers(1, 300),
    st.floats(0, 0.9),
    st.floats(0.01, 1),
    st.sampled_from(["cubic", "linear", "step"]),
    st.integers(1, 64),
    st.data(),
)
def test_ranks_fall_from_full_to_planned(
    total: int, start: float, length: float, shape: Any, full: int, data: st.DataObject
) -> None:
    end = min(1.0, start + length)
    planned = data.draw(st.integers(1, full))
    descent = lrpet.Descent(start=start, end=end, shape=shape)
    ranks = [descent.rank(full, planned, step / total) for step in range(total + 1)]
    assert ranks == sorted(ranks, reverse=True)
    assert ranks[0] == full
    assert all(rank == full for step, rank in enumerate(ranks) if step <= start * total)
    assert all(rank == planned for step, rank in enumerate(ranks) if step >= end * total * (1 + 1e-9))
    assert ranks[-1] == planned


def test_the_shapes_by_hand() -> None:
    done = (0.0, 0.25, 0.5, 1.0, 1.5)
    linear, cubic, step = (lrpet.Descent(end=1.0, shape=shape) for shape in ("linear", "cubic", "step"))
    assert [linear.rank(20, 4, fraction) for fraction in done] == [20, 16, 12, 4, 4]
    assert [cubic.rank(20, 4, fraction) for fraction in done] == [20, 11, 6, 4, 4]
    assert [step.rank(20, 4, fraction) for fraction in (0.0, 0.24, 0.25, 0.74, 1.0)] == [20, 20, 16, 12, 4]
    assert cubic.progress(0.5) == 0.875


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": 0.7}, "start=0.7 and end=0.6: give fractions of the training with 0 <= start < end <= 1"),
        ({"start": -0.1}, "start=-0.1"),
        ({"end": 1.1}, "end=1.1"),
        ({"shape": "square"}, "shape='square': give one of cubic, linear, step"),
    ],
)
def test_a_bad_descent_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lrpet.Descent(**options)


def test_weights_follow_the_ranks_down() -> None:
    model = network()
    descent = lrpet.Descent(end=0.5, shape="linear")
    plan = lrpet.plan(model, X[:1], keep=0.25)
    assert plan.ranks == {"0": 3, "3": 3}
    projector = lrpet.Projector(model, plan, every=2, start=0, total_steps=20, descent=descent)
    seen = train(model, projector, 20)
    assert [ranks["3"] for ranks in seen] == [10, 8, 7, 5, 3, 3, 3, 3, 3, 3]
    assert rank_of(model.get_submodule("3").weight) == 3
    compact = lrpet.factorize(model, projector.plan)
    torch.testing.assert_close(compact.eval()(X), model.eval()(X), rtol=1e-3, atol=1e-4)


def test_a_moving_average_is_projected_to_the_ranks_of_the_moment() -> None:
    model = network()
    descent = lrpet.Descent(end=0.5, shape="linear")
    plan = lrpet.plan(model, X[:1], keep=0.25)
    projector = lrpet.Projector(model, plan, every=2, start=0, total_steps=20, descent=descent)
    train(model, projector, 4)
    assert rank_of(projector.projected_copy(network(1)).get_submodule("3").weight) == 8
    train(model, projector, 16)
    assert rank_of(projector.projected_copy(network(1)).get_submodule("3").weight) == 3


def falling(model: nn.Module) -> lrpet.Projector:
    plan = lrpet.plan(model, X[:1], macs=0.4, allocate="energy")
    return lrpet.Projector(model, plan, every=2, start=0, total_steps=16, descent=lrpet.Descent(end=0.75))


def test_ranks_are_allocated_anew_until_they_are_frozen() -> None:
    model = network()
    projector = falling(model)
    at_start = lrpet.plan(model, X[:1], macs=0.4, allocate="energy")
    with torch.no_grad():  # spectra of training are not those of the start
        weight: Any = model[3].weight
        left, values, right = torch.linalg.svd(weight.flatten(1), full_matrices=False)
        weight.copy_(((left * (values * torch.exp(-torch.arange(12.0)))) @ right).view_as(weight))
    train(model, projector, 4)
    assert projector.plan.ranks != at_start.ranks
    assert projector.plan.macs <= 0.4 * projector.plan.macs_dense
    train(model, projector, 12)
    frozen = projector.plan
    assert frozen.request is None
    train(model, projector, 4)
    assert projector.plan == frozen
    for name, layer in frozen.bind(model).items():
        assert rank_of(layer.weight) <= frozen.ranks[name]


@pytest.mark.parametrize("descent", [None, lrpet.Descent(end=0.5)])
def test_a_budget_is_divided_again_at_the_first_projection(descent: lrpet.Descent | None) -> None:
    model = network()
    asked = lrpet.plan(model, X[:1], macs=0.4, allocate="energy")

    def projector() -> lrpet.Projector:
        return lrpet.Projector(model, asked, every=2, start=11, total_steps=21, descent=descent)

    first = projector()
    early = copy.deepcopy(first.state_dict())
    assert first.plan == asked
    average = network(1)
    if descent is None:
        unprojected = first.projected_copy(average)
        assert all(torch.equal(a, b) for a, b in zip(average.parameters(), unprojected.parameters(), strict=True))
    train(model, first, 10)
    assert first.plan == asked
    halfway = projector()
    halfway.load_state_dict(copy.deepcopy(first.state_dict()))
    assert halfway.steps == 10
    train(model, first, 1)  # the eleventh step: not yet an even one
    assert first.plan == asked
    with torch.no_grad():  # what is trained is not what was there at the start
        weight: Any = model[0].weight
        left, values, right = torch.linalg.svd(weight.flatten(1), full_matrices=False)
        weight.copy_(((left * (values * torch.exp(-3 * torch.arange(12.0)))) @ right).view_as(weight))
    by_weights = lrpet.plan(model, X[:1], macs=0.4, allocate="energy")
    first.steps += 1
    first.project()
    assert first.plan.request is None
    assert first.plan.ranks == by_weights.ranks != asked.ranks
    assert first.plan.budget.startswith("macs=0.4 (most energy")
    assert rank_of(first.projected_copy(average).get_submodule("3").weight) == by_weights.ranks["3"]

    resumed = projector()
    resumed.load_state_dict(copy.deepcopy(first.state_dict()))
    train(model, resumed, 7)
    assert resumed.plan == first.plan
    assert {name: layer.rank for name, layer in resumed.project().layers.items()} == by_weights.ranks
    resumed.load_state_dict(early)
    assert resumed.plan == asked

    fixed = lrpet.Projector(model, first.plan, start=0, every=2)
    before = copy.deepcopy(resumed.state_dict())
    with pytest.raises(ValueError, match="saved with other ranks for"):
        resumed.load_state_dict({**fixed.state_dict(), "plan": asked.to_dict(), "settled": False})
    wrong = {**before, "steps": 99, "bases": {"3": torch.zeros(1, 2, 3)}}
    with pytest.raises(ValueError, match="a basis for '3' of another network"):
        resumed.load_state_dict(wrong)
    after = resumed.state_dict()
    assert [after[key] for key in ("steps", "ranks", "plan", "settled")] == [
        before[key] for key in ("steps", "ranks", "plan", "settled")
    ]


def test_auto_goes_by_energy_where_projections_begin_in_the_second_half() -> None:
    for start, energy in ((0.5, True), (0.25, False), (10, True), (9, False)):
        model = network()
        plan = lrpet.plan(model, X[:1], macs=0.4)
        assert plan.budget.startswith("macs=0.4 (uniform keep")
        projector = lrpet.Projector(model, plan, total_steps=20, start=start, every=1)
        projector.project()
        assert ("most energy" in projector.plan.budget) == energy
    model = network()
    projector = lrpet.Projector(model, lrpet.plan(model, X[:1], macs=0.4).settled(), total_steps=20)
    projector.project()
    assert "uniform keep" in projector.plan.budget


def test_auto_goes_by_energy_only_where_there_is_batch_norm() -> None:
    for norm, energy in ((nn.BatchNorm1d(64), True), (nn.LayerNorm(64), False)):
        model = nn.Sequential(nn.Linear(64, 64), norm, nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        projector = lrpet.Projector(model, lrpet.plan(model, torch.randn(2, 64), macs=0.5), total_steps=4)
        projector.project()
        assert ("most energy" in projector.plan.budget) == energy


def test_sensitivity_divides_by_the_loss_at_the_first_projection() -> None:
    model = network()
    calls = []

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        calls.append(batch)
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    plan = lrpet.plan(model, X[:1], macs=0.4, allocate="sensitivity", batches=[(X, Y)], loss=loss)
    projector = lrpet.Projector(model, plan, total_steps=4, start=0, every=2)
    assert not calls
    train(model, projector, 2)
    assert len(calls) == 1
    assert "most worth" in projector.plan.budget
    read = lrpet.Plan.from_json(plan.to_json())
    with pytest.raises(ValueError, match=r"was read from a file, which holds no batches: .* plan.settled\(\)"):
        lrpet.Projector(model, read, total_steps=4)
    assert lrpet.Projector(model, read.settled(), total_steps=4).plan.ranks == plan.ranks


@pytest.mark.parametrize("cut", [6, 14])
def test_a_descent_resumes_where_it_was(cut: int) -> None:
    whole = network()
    train(whole, falling(whole), 20)
    model = network()
    first = falling(model)
    train(model, first, cut)
    state = copy.deepcopy(first.state_dict())
    again = network(1)
    again.load_state_dict(model.state_dict())
    resumed = falling(again)
    resumed.load_state_dict(state)
    assert resumed.plan == first.plan
    train(again, resumed, 20 - cut)
    for a, b in zip(whole.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
