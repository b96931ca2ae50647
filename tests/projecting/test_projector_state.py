"""What a projector is given: a state to go on from, a plan, options and weights; what does not fit is refused."""

from __future__ import annotations

import io
import itertools
import math
from typing import Any

import pytest
import torch
from torch import nn

import lrpet
from projected_networks import EXAMPLE, due, network, values


@pytest.fixture
def model() -> nn.Sequential:
    return network()


@pytest.fixture
def plan(model: nn.Sequential) -> lrpet.Plan:
    return lrpet.plan(model, EXAMPLE, keep=0.34)


def test_the_state_continues_where_it_was(model: nn.Sequential, plan: lrpet.Plan) -> None:
    projector = lrpet.Projector(model, plan, start=0, every=4)
    assert due(projector, 6) == [4]
    file = io.BytesIO()
    torch.save(projector.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    before, bases = projector.state_dict(), state["bases"]
    assert {**state, "bases": None} == {**before, "bases": None}
    assert bases.keys() == projector.plan.ranks.keys()
    assert all(torch.equal(bases[name], before["bases"][name]) for name in bases)

    resumed = lrpet.Projector(model, lrpet.Plan.from_json(plan.to_json()), start=0, every=4)
    resumed.load_state_dict(state)
    assert (resumed.steps, resumed.seconds) == (6, projector.seconds)
    assert due(resumed, 6) == [8, 12]


def test_another_projectors_state_is_refused(model: nn.Sequential, plan: lrpet.Plan) -> None:
    projector = lrpet.Projector(model, plan, start=0, every=4)
    other = lrpet.Projector(model, lrpet.plan(model, EXAMPLE, ranks={"0": 4, "3": 6}), start=0, every=4)
    other.step()
    with pytest.raises(ValueError, match="saved with other ranks for 3, 5: make the projector from the plan"):
        projector.load_state_dict(other.state_dict())
    foreign: list[Any] = [
        {},
        {"steps": 3},
        {**projector.state_dict(), "x": 1},
        {**projector.state_dict(), "ranks": 3},
        None,
    ]
    for state in foreign:
        with pytest.raises(ValueError, match="not a projector's state: expected the keys steps, seconds, ranks"):
            projector.load_state_dict(state)
    due(other, 3)
    state = lrpet.Projector(model, plan, start=0, every=4).state_dict() | {"steps": 9}
    damaged: list[dict[str, Any]] = [
        {"bases": {"3": [1.0]}},
        {"bases": {"3": torch.ones(2, 2)}},
        {"steps": None},
        {"waits": {"3": 4}},
        {"waits": [3]},
    ]
    for damage in damaged:
        with pytest.raises(ValueError, match=r"another network|not a projector's state"):
            projector.load_state_dict(state | damage)
    assert projector.steps == 0


def test_another_networks_plan_is_refused(plan: lrpet.Plan) -> None:
    with pytest.raises(ValueError, match="expects '0' to be 12×27 as a matrix, but in this model it is 13×27"):
        lrpet.Projector(network(width=13), plan, start=0, every=1)
    with pytest.raises(ValueError, match="'0', which this Linear does not have"):
        lrpet.Projector(nn.Linear(3, 3), plan, start=0, every=1)


@pytest.mark.parametrize(
    ("tensor", "layer", "bad"),
    [
        *itertools.product(("0.weight", "1.weight", "1.running_var"), ("0",), (math.nan, math.inf, -math.inf)),
        *itertools.product(("3.weight",), ("3",), (math.nan, math.inf, -math.inf, 1e30)),
    ],
)
def test_a_diverged_network_is_named_and_left_alone(
    model: nn.Sequential, plan: lrpet.Plan, tensor: str, layer: str, bad: float
) -> None:
    model.state_dict()[tensor].flatten()[1] = bad
    before = {name: t.view(torch.uint8).clone() for name, t in values(model).items() if t.dim()}
    projector = lrpet.Projector(model, plan, start=0, every=2)
    projector.step()
    message = (
        f"NaN or Inf in the weights or batch norm of {layer} at step 2, or in their squares, or a negative "
        "variance: nothing was projected. .*lower the learning"
    )
    with pytest.raises(ValueError, match=message):
        projector.step()
    after = {name: t.view(torch.uint8) for name, t in model.state_dict().items() if t.dim()}
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert projector.last is None


def test_without_rectification_a_batch_norm_does_not_matter(model: nn.Sequential, plan: lrpet.Plan) -> None:
    model.state_dict()["1.running_var"][0] = float("nan")
    report = lrpet.Projector(model, plan, start=0, every=1, rectify=False).project()
    assert all(report.layers[name].pruned > 0 for name in plan.ranks)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, r"every=0 must be a number of steps \(an int, at least 1\), a fraction"),
        ({"every": -1}, "every=-1 must be"),
        ({"every": 2.5}, "every=2.5 must be"),
        ({"every": True}, "every=True must be"),
        ({"every": None}, "every=None must be"),
        ({"every": 1, "start": -1}, "start=-1 must be a fraction of the training"),
        ({"every": 1, "start": 1.5}, "start=1.5 must be a fraction of the training"),
        ({"total_steps": 0}, "total_steps=0 must be the length"),
        ({"every": 1, "tail_scale": -0.1}, "tail_scale=-0.1 must be at least 0 and below 1"),
        ({"every": 1, "tail_scale": 1.0}, "tail_scale=1.0 must be"),
        ({"every": 1, "tail_scale": float("nan")}, "tail_scale=nan must be"),
    ],
)
def test_bad_arguments(model: nn.Sequential, plan: lrpet.Plan, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lrpet.Projector(model, plan, **options)
