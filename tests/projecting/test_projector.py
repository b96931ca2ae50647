"""The projector in a training loop: when it projects, what it leaves alone, and what it reports."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import lrpet
import reference
from helpers import weight
from lrpet.layers.batch_norm import row_scale
from projected_networks import EXAMPLE, due, network, values


@pytest.fixture
def model() -> nn.Sequential:
    return network()


@pytest.fixture
def plan(model: nn.Sequential) -> lrpet.Plan:
    return lrpet.plan(model, EXAMPLE, keep=0.34)


def alpha(model: nn.Module, name: str) -> Tensor | None:
    """The row scale of the one layer that a batch norm follows."""
    norm = model.get_submodule("1")
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_var is not None
    return (norm.weight / torch.sqrt(norm.running_var + norm.eps)).detach() if name == "0" else None


def train(model: nn.Module, optimizer: torch.optim.Optimizer, after_step: Callable[[], Any], *, steps: int) -> None:
    random = torch.Generator().manual_seed(0)
    for _ in range(steps):
        x, y = torch.randn(16, 3, 8, 8, generator=random), torch.randint(10, (16,), generator=random)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        after_step()


def test_the_plan_of_these_tests(plan: lrpet.Plan) -> None:
    assert plan.ranks == {"0": 4, "3": 5, "5": 6}
    assert [layer.batch_norm for layer in plan.layers] == ["1", None, None, None]


def test_when_steps_fall_due(model: nn.Sequential, plan: lrpet.Plan) -> None:
    assert due(lrpet.Projector(model, plan, start=0, every=1), 3) == [1, 2, 3]
    projector = lrpet.Projector(model, plan, start=0, every=3)
    assert due(projector, 10) == [3, 6, 9]
    assert projector.steps == 10
    assert projector.last is not None
    assert projector.last.step == 9
    assert projector.seconds > 0


def test_nothing_is_projected_before_the_start(model: nn.Sequential, plan: lrpet.Plan) -> None:
    assert due(lrpet.Projector(model, plan, every=5, start=12), 31) == [15, 20, 25, 30]
    assert due(lrpet.Projector(model, plan, every=5, start=10), 11) == [10]
    assert due(lrpet.Projector(model, plan, every=lambda step: step % 2 == 1, start=4), 8) == [5, 7]


def test_a_schedule_is_told_each_step_once(model: nn.Sequential, plan: lrpet.Plan) -> None:
    told: list[int] = []

    def schedule(step: int) -> bool:
        told.append(step)
        return step == 2 or step >= 5

    assert due(lrpet.Projector(model, plan, start=0, every=schedule), 6) == [2, 5, 6]
    assert told == [1, 2, 3, 4, 5, 6]


def test_nothing_changes_before_a_step_is_due(model: nn.Sequential, plan: lrpet.Plan) -> None:
    before = values(model)
    projector = lrpet.Projector(model, plan, start=0, every=100)
    for _ in range(99):
        assert projector.step() is None
    assert projector.last is None
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("kind", ["SGD", "AdamW"])
def test_training_with_projections(kind: str) -> None:
    model = network()
    plan = lrpet.plan(model, EXAMPLE, keep=0.34)
    optimizer: torch.optim.Optimizer = (
        torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
        if kind == "SGD"
        else torch.optim.AdamW(model.parameters(), lr=1e-3)
    )
    projector = lrpet.Projector(model, plan, start=0, every=3)
    pointers = {name: parameter.data_ptr() for name, parameter in model.named_parameters()}
    objects = {name: id(parameter) for name, parameter in model.named_parameters()}

    def step() -> None:
        state = copy.deepcopy(optimizer.state_dict())
        gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        unplanned = {name: t for name, t in values(model).items() if name not in ("0.weight", "3.weight", "5.weight")}
        report = projector.step()
        assert (report is not None) == (projector.steps % 3 == 0)
        torch.testing.assert_close(optimizer.state_dict(), state, rtol=0, atol=0)
        torch.testing.assert_close([p.grad for p in model.parameters()], gradients, rtol=0, atol=0)
        assert all(
            torch.equal(tensor, unplanned[name]) for name, tensor in model.state_dict().items() if name in unplanned
        )
        for name, rank in plan.ranks.items():
            tail = reference.singular_values(weight(model, name))[rank:]
            assert (tail[0] < 1e-5) == (report is not None)

    train(model, optimizer, step, steps=9)
    assert {name: parameter.data_ptr() for name, parameter in model.named_parameters()} == pointers
    assert {name: id(parameter) for name, parameter in model.named_parameters()} == objects
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in model.parameters())


@pytest.mark.parametrize("rectify", [True, False])
@pytest.mark.parametrize("energy_transfer", [True, False])
@pytest.mark.parametrize("tail_scale", [0.0, 0.3])
def test_weights_and_report_are_the_references(rectify: bool, energy_transfer: bool, tail_scale: float) -> None:
    model = network()
    plan = lrpet.plan(model, EXAMPLE, keep=0.34)
    train(model, torch.optim.SGD(model.parameters(), lr=0.05), lambda: None, steps=2)
    with torch.no_grad():
        model.get_submodule("1").weight.copy_(torch.linspace(-2, 3, 12))  # type: ignore[operator]
    before = copy.deepcopy(model)
    projector = lrpet.Projector(
        model, plan, start=0, every=1, rectify=rectify, energy_transfer=energy_transfer, tail_scale=tail_scale
    )
    report = projector.step()
    assert report is not None
    assert report is projector.last
    assert list(report.layers) == ["0", "3", "5"]
    pruned = []
    for name, layer in report.layers.items():
        rank, matrix = plan.ranks[name], weight(before, name)
        scale = alpha(before, name) if rectify else None
        folded = matrix if scale is None else scale[:, None] * matrix
        expected = (
            reference.project(matrix, rank, energy_transfer=energy_transfer, tail_scale=tail_scale)
            if scale is None
            else reference.rectified(matrix, rank, scale, energy_transfer=energy_transfer, tail_scale=tail_scale)
        )
        got = weight(model, name)
        assert (got - expected).norm() < 1e-5 * expected.norm()
        squared = reference.singular_values(folded).square()
        energy, tail = squared.sum().item(), squared[rank:].sum().item()
        pruned.append(tail / energy)
        assert (layer.rank, layer.dead) == (rank, False)
        assert layer.energy == pytest.approx(energy, rel=1e-5)
        assert layer.pruned == pytest.approx(tail / energy, rel=1e-4)
        after = energy if energy_transfer else energy - tail + tail_scale**2 * tail
        assert layer.energy_after == pytest.approx(after, rel=1e-5)
        assert reference.energy(got if scale is None else scale[:, None] * got) == pytest.approx(after, rel=1e-5)
    assert min(pruned) > 0.05
    assert report.pruned == pytest.approx(sum(pruned) / 3, rel=1e-4)
    assert report.dead == []


def test_the_plan_may_leave_batch_norms_out(model: nn.Sequential) -> None:
    """rectify=False in the plan and in the projector come to the same."""
    plans = [lrpet.plan(model, EXAMPLE, keep=0.34, rectify=rectify) for rectify in (False, True)]
    with torch.no_grad():
        model.get_submodule("1").weight.copy_(torch.linspace(-2, 3, 12))  # type: ignore[operator]
    other, rectified = copy.deepcopy(model), copy.deepcopy(model)
    lrpet.Projector(model, plans[0], start=0, every=1).project()
    lrpet.Projector(other, plans[1], start=0, every=1, rectify=False).project()
    lrpet.Projector(rectified, plans[1], start=0, every=1).project()
    assert torch.equal(weight(model, "0"), weight(other, "0"))
    assert not torch.allclose(weight(model, "0"), weight(rectified, "0"), atol=1e-3)


def test_projecting_again_changes_nothing(model: nn.Sequential, plan: lrpet.Plan) -> None:
    projector = lrpet.Projector(model, plan, start=0, every=1)
    projector.step()
    once = {name: weight(model, name).clone() for name in plan.ranks}
    report = projector.step()
    assert report is not None
    for name, matrix in once.items():
        assert (weight(model, name) - matrix).norm() < 1e-5 * matrix.norm()
        assert report.layers[name].pruned < 1e-6


def test_dead_layers_are_left_alone_and_reported(model: nn.Sequential, plan: lrpet.Plan) -> None:
    nn.init.zeros_(model.get_submodule("1").weight)  # type: ignore[arg-type]
    nn.init.zeros_(model.get_submodule("5").weight)  # type: ignore[arg-type]
    before = values(model)
    report = lrpet.Projector(model, plan, start=0, every=1).project()
    assert report.dead == ["0", "5"]
    assert report.layers["5"] == lrpet.LayerReport(rank=6, energy=0.0, energy_after=0.0, pruned=0.0, dead=True)
    assert torch.equal(weight(model, "0"), before["0.weight"].flatten(1))
    assert torch.equal(weight(model, "5"), before["5.weight"])
    assert not torch.equal(weight(model, "3"), before["3.weight"].flatten(1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions(dtype: torch.dtype) -> None:
    model = network().to(dtype)
    plan = lrpet.plan(model, EXAMPLE.to(dtype), keep=0.34)
    before = copy.deepcopy(model)
    report = lrpet.Projector(model, plan, start=0, every=1).project()
    tolerance = 1e-2 if dtype == torch.bfloat16 else 1e-12
    for name, rank in plan.ranks.items():
        assert weight(model, name).dtype == dtype
        scale = alpha(before.double(), name)
        matrix = weight(before, name)
        expected = reference.project(matrix, rank) if scale is None else reference.rectified(matrix, rank, scale)
        assert (weight(model, name) - expected).norm() < tolerance * expected.norm()
        assert report.layers[name].energy_after == pytest.approx(report.layers[name].energy, rel=1e-6)
    if dtype == torch.float64:
        norm = model.get_submodule("1")
        assert row_scale(norm).dtype == torch.float64


def test_channels_last_weights_stay_so(model: nn.Sequential, plan: lrpet.Plan) -> None:
    other = copy.deepcopy(model).to(memory_format=torch.channels_last)
    lrpet.Projector(model, plan, start=0, every=1).project()
    lrpet.Projector(other, plan, start=0, every=1).project()
    kernel = other.get_submodule("3").weight
    assert isinstance(kernel, Tensor)
    assert kernel.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(weight(model, "3"), weight(other, "3"))


def test_inside_autocast_and_inference_mode(model: nn.Sequential, plan: lrpet.Plan) -> None:
    others = copy.deepcopy(model), copy.deepcopy(model)
    lrpet.Projector(model, plan, start=0, every=1).project()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lrpet.Projector(others[0], plan, start=0, every=1).project()
    with torch.inference_mode():
        lrpet.Projector(others[1], plan, start=0, every=1).project()
    for other in others:
        assert all(torch.equal(weight(other, name), weight(model, name)) for name in plan.ranks)


def test_a_plan_without_ranks_projects_nothing(model: nn.Sequential) -> None:
    before = values(model)
    report = lrpet.Projector(model, lrpet.plan(model, EXAMPLE, ranks={}), start=0, every=1).project()
    assert report.layers == {}
    assert report.pruned == 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
