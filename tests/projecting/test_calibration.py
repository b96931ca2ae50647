"""A projector that looks at the outputs on some inputs."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lrpet
from helpers import images
from lrpet.layers.moments import output_moments
from lrpet.projecting.outputs import output_energies, project_outputs

X = images(16, 3, 8, 8)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, bias=False), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 12, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(192, 24), nn.ReLU(), nn.Linear(24, 5),
    )  # fmt: skip


def trained(projector: lrpet.Projector, optimizer: torch.optim.Optimizer, steps: int) -> dict[str, Tensor]:
    """Train the projector's model by some steps; return its weights."""
    for _ in range(steps):
        loss = projector.model(X).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        projector.step()
    return {name: tensor.clone() for name, tensor in projector.model.state_dict().items()}


def test_every_layer_is_projected_by_its_outputs() -> None:
    model = network()
    plan = lrpet.plan(model, X[:1], ranks={"0": 3, "3": 4, "6": 6})
    layers = plan.bind(model)
    moments = dict(output_moments(model, layers, [X]))
    expected = {
        name: project_outputs(layer.matrices(), moments[name], plan.ranks[name], row_scale=layer.row_scale())
        for name, layer in layers.items()
    }
    modes = [module.training for module in model.modules()]
    projector = lrpet.Projector(model, plan, start=0, every=1, calibration=[X])
    report = projector.project()
    assert modes == [module.training for module in model.modules()]
    for name, layer in plan.bind(model).items():
        torch.testing.assert_close(layer.matrices(), expected[name].matrix)
        assert report.layers[name].pruned == pytest.approx(
            float(1 - expected[name].kept / expected[name].energy), abs=1e-6
        )
    after = copy.deepcopy(model.state_dict())
    projector.project()
    for name in plan.ranks:  # of rank r already, with outputs in r directions
        torch.testing.assert_close(model.state_dict()[f"{name}.weight"], after[f"{name}.weight"], rtol=1e-3, atol=1e-5)


def test_a_budget_is_divided_by_the_outputs() -> None:
    model = network()
    plan = lrpet.plan(model, X[:1], macs=0.6, allocate="energy", multiple_of=1, min_saving=0.0)
    projector = lrpet.Projector(model, plan, start=0, every=1, calibration=[X])
    candidates = lrpet.plan(model, X[:1], keep=1.0, factorize_all=True).bind(model)
    worths: dict[str, Any] = {}
    for name, moment in output_moments(model, candidates, [X]):
        values = output_energies(candidates[name].matrices(), moment, candidates[name].row_scale()).sum(0)
        worths[name] = (values / values.sum()).tolist()
    expected = lrpet.plan(model, X[:1], macs=0.6, allocate=worths, multiple_of=1, min_saving=0.0)
    projector.project()
    assert projector.plan.ranks == expected.ranks
    assert projector.plan.ranks != plan.ranks


@pytest.mark.parametrize("options", [{}, {"tail_scale": 0.5}, {"energy_transfer": False}, {"rectify": False}], ids=str)
def test_training_goes_on_from_a_stored_state_to_the_same_bits(options: dict[str, Any]) -> None:
    def prepared() -> tuple[lrpet.Projector, torch.optim.Optimizer]:
        model = network()
        plan = lrpet.plan(model, X[:1], macs=0.6)
        projector = lrpet.Projector(model, plan, total_steps=8, every=2, calibration=[X[:8], X[8:]], **options)
        return projector, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    whole, optimizer = prepared()
    trained(whole, optimizer, 5)
    stored = copy.deepcopy((whole.model.state_dict(), optimizer.state_dict(), whole.state_dict()))
    expected = trained(whole, optimizer, 3)
    again, second = prepared()
    again.model.load_state_dict(stored[0])
    second.load_state_dict(stored[1])
    again.load_state_dict(stored[2])
    found = trained(again, second, 3)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    if "tail_scale" not in options:
        compact = again.finish().eval()
        torch.testing.assert_close(compact(X), again.model.eval()(X), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("calibration", [X, iter([X]), 3])
def test_what_is_no_list_of_inputs_is_refused(calibration: Any) -> None:
    model = network()
    with pytest.raises(ValueError, match=r"calibration must be a list of inputs; got .*put batches into a list"):
        lrpet.Projector(model, lrpet.plan(model, X[:1], keep=0.3), calibration=calibration)


def test_an_error_changes_nothing() -> None:
    model = network()
    projector = lrpet.Projector(
        model, lrpet.plan(model, X[:1], keep=0.3), start=0, every=1, calibration=[X * torch.inf]
    )
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="NaN or Inf in the outputs of '0'"):
        projector.project()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
