"""Networks that change under a projector: replaced modules, parametrizations, other precisions."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import lrpet
from helpers import images


@pytest.fixture
def model() -> nn.Sequential:
    return network(seed=0)


@pytest.fixture
def plan(model: nn.Sequential) -> lrpet.Plan:
    return lrpet.plan(model, images(1, 3, 8, 8), keep=0.34)


def network(*, seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Conv2d(12, 16, 3, stride=2),
        nn.Flatten(),
        nn.Linear(16 * 9, 20),
        nn.ReLU(),
        nn.Linear(20, 10),
    )


def test_replaced_layers_and_batch_norms_are_followed(model: nn.Sequential, plan: lrpet.Plan) -> None:
    projector = lrpet.Projector(model, plan, start=0, every=1)
    projector.project()
    other = network(seed=1)
    model[0], model[1], model[5] = other[0], other[1], other[5]
    expected = copy.deepcopy(model)
    lrpet.Projector(expected, plan, start=0, every=1).project()
    projector.project()
    for name, rank in plan.ranks.items():
        assert int(torch.linalg.matrix_rank(model.get_submodule(name).weight.flatten(1), rtol=1e-4)) == rank  # type: ignore[operator]
    torch.testing.assert_close(model.state_dict(), expected.state_dict())


def test_a_replaced_layer_that_does_not_fit_is_named(model: nn.Sequential, plan: lrpet.Plan) -> None:
    projector = lrpet.Projector(model, plan, start=0, every=1)
    projector.project()
    whole = model[5]
    model[5] = nn.Linear(16 * 9, 21)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="expects '5' to be 20×144"):
        projector.project()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    model[5] = nn.utils.parametrizations.weight_norm(nn.Linear(16 * 9, 20))
    with pytest.raises(ValueError, match="'5', but in this model its weight is computed by a parametrization"):
        projector.project()
    model[5] = whole
    assert projector.project().pruned < 1e-6


def test_a_network_may_change_its_precision(model: nn.Sequential, plan: lrpet.Plan) -> None:
    projector = lrpet.Projector(model, plan, start=0, every=1)
    projector.project()
    model.double()
    assert projector.project().pruned < 1e-6
    assert all(basis.dtype == torch.float64 for basis in projector.state_dict()["bases"].values())
