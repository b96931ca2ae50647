"""One call from a trained network to a compact one, and the warnings about weights that are not low-rank."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import lrpet
import reference
from helpers import images, realistic_, small_network

X = images(64, 3, 6, 6)


def test_compress_plans_by_energy_projects_and_factorises() -> None:
    model = realistic_(small_network(), X)
    before = copy.deepcopy(model.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compact = lrpet.compress(model, X[:1], macs=0.5, include=["0", "3"])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    plan = compact.lrpet_plan
    assert isinstance(plan, lrpet.Plan)
    assert plan.budget.startswith("macs=0.5 (most energy")
    assert plan.macs <= 0.5 * plan.macs_dense
    projected = copy.deepcopy(model)
    lrpet.Projector(projected, plan, start=0, every=1).project()
    torch.testing.assert_close(compact(X), projected(X), rtol=1e-4, atol=1e-4)


def test_a_cut_without_training_is_that_of_the_weights_as_they_are() -> None:
    """Rectified cuts, of the weights as batch norm scales them, were less accurate."""
    model = realistic_(small_network(), X)
    weight = model.get_parameter("0.weight").detach().clone()

    def cut(**options: Any) -> Tensor:
        pair: Any = lrpet.compress(model, X[:1], ranks={"0": 2}, energy_transfer=False, **options).get_submodule("0")
        weight: Tensor = pair.weight.detach().double()
        return weight

    expected = reference.project(weight.flatten(1), 2, energy_transfer=False).view_as(weight).double()
    torch.testing.assert_close(cut(), expected, rtol=1e-4, atol=1e-5)
    assert torch.dist(cut(rectify=True), expected) > 0.01 * expected.norm()


def test_batches_reestimate_batch_norm() -> None:
    model = realistic_(small_network(), X)
    plain = lrpet.compress(model, X[:1], keep=0.2)
    again = lrpet.compress(model, X[:1], keep=0.2, batches=[(X[:32], None), (X[32:], None)])
    norm, reestimated = plain.get_submodule("1"), again.get_submodule("1")
    assert not torch.equal(norm.running_mean, reestimated.running_mean)  # type: ignore[arg-type]
    output = again.get_submodule("0")(X)
    torch.testing.assert_close(output.mean((0, 2, 3)), reestimated.running_mean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(again.get_submodule("0")[1].weight, plain.get_submodule("0")[1].weight)  # type: ignore[index]


def test_calibration_keeps_what_the_outputs_need() -> None:
    """Real batches vary along few directions, so that outputs tell more than weights do about what may go."""
    network = small_network()
    flat = X.mean((2, 3), keepdim=True) + 0.1 * X  # neighbouring pixels are alike
    model = realistic_(network, flat)
    before = copy.deepcopy(model.state_dict())
    batches = iter([flat[:32], flat[32:]])
    options = {"macs": 0.5, "include": ["0", "3"], "energy_transfer": False}
    by_outputs = lrpet.compress(model, X[:1], calibration=batches, **options)  # type: ignore[arg-type]
    by_weights = lrpet.compress(model, X[:1], **options)  # type: ignore[arg-type]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    plan = by_outputs.lrpet_plan
    assert isinstance(plan, lrpet.Plan)
    assert plan.macs <= 0.5 * plan.macs_dense

    def error(compact: nn.Module) -> float:
        return float((compact(flat) - model(flat)).detach().square().mean())

    assert error(by_outputs) < 0.8 * error(by_weights)


def test_calibration_conserves_the_power_of_the_outputs() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False))
    cut = lrpet.compress(model, X[:1], ranks={"0": 3}, calibration=[X], energy_transfer=False)
    moved = lrpet.compress(model, X[:1], ranks={"0": 3}, calibration=[X])
    power, less, again = (network(X).detach().square().mean().item() for network in (model, cut, moved))
    assert less < 0.97 * power
    assert again == pytest.approx(power, rel=0.01)


def test_finish_factorises_and_warns_only_where_weights_were_far() -> None:
    model = small_network()
    plan = lrpet.plan(model, X[:1], keep=0.34)
    projector = lrpet.Projector(model, plan, total_steps=10)
    early = copy.deepcopy(model.state_dict())
    for _ in range(10):
        projector.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compact = projector.finish()
    torch.testing.assert_close(compact.eval()(X), model.eval()(X), rtol=1e-4, atol=1e-5)
    model.load_state_dict(early)  # the "best" checkpoint, from before the first projection
    with pytest.warns(UserWarning, match=r"the last projection cut \d+\.\d% of the energy .*from step 5 on"):
        projector.finish()


def test_wrappers_are_seen_through() -> None:
    model = small_network()
    wrapped = torch.nn.DataParallel(model)
    plan = lrpet.plan(wrapped, X[:1], keep=0.34)
    assert plan == lrpet.plan(model, X[:1], keep=0.34)
    lrpet.Projector(wrapped, plan, start=0, every=1).project()
    compact = lrpet.factorize(wrapped, plan)
    assert type(compact) is nn.Sequential
    assert compact.state_dict().keys() == lrpet.factorize(model, plan).state_dict().keys()
    compiled = torch.compile(small_network())
    assert list(lrpet.plan(compiled, X[:1], keep=0.34).ranks) == list(plan.ranks)  # type: ignore[arg-type]


def test_moving_averages_are_taken_as_they_are() -> None:
    model = small_network()
    plan = lrpet.plan(model, X[:1], keep=0.34)
    projector = lrpet.Projector(model, plan, start=0, every=1)
    average = AveragedModel(model)
    copied = projector.projected_copy(average)
    assert type(copied) is nn.Sequential
    projector.project()
    torch.testing.assert_close(copied.eval()(X), model.eval()(X))


@pytest.mark.parametrize("what", ["a function", None])
def test_what_is_no_plan_is_refused_early(what: object) -> None:
    with pytest.raises(ValueError, match=r"plan must be what lrpet\.plan returned; got"):
        lrpet.Projector(small_network(), what)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"plan must be what lrpet\.plan returned; got"):
        lrpet.factorize(small_network(), what)  # type: ignore[arg-type]
