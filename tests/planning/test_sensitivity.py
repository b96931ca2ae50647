"""What singular values are worth to the loss."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lrpet
from helpers import images
from helpers import small_network as network

X, Y = images(16, 3, 6, 6), torch.arange(16) % 4


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def test_the_worth_of_a_singular_value_is_the_square_of_its_derivative() -> None:
    """Against finite differences: take a little of one singular value away, and see what the loss does."""
    model = network().double().eval()
    with torch.no_grad():
        model[1].running_var.uniform_(0.3, 2)  # type: ignore[operator]
        model[1].weight.uniform_(0.5, 2)  # type: ignore[operator]
    x = X.double()
    plan = lrpet.plan(model, x[:1], keep=1.0, factorize_all=True)
    batches = [(x[:8], Y[:8]), (x[8:], Y[8:])]
    worths = lrpet.sensitivity(model, plan, batches, loss)
    assert {name: len(values) for name, values in worths.items()} == {"0": 12, "3": 12}
    norm: Any = model[1]
    alpha = norm.weight / (norm.running_var + norm.eps).sqrt()
    for name, scale in (("0", alpha.detach()), ("3", torch.ones(12, dtype=torch.float64))):
        layer: Any = model.get_submodule(name)
        matrix = layer.weight.detach().flatten(1)
        right = torch.linalg.svd(scale[:, None] * matrix, full_matrices=False).Vh
        for i in (0, 3, 11):
            part = (matrix @ right[i][:, None] @ right[i][None]).view_as(layer.weight)
            expected = 0.0
            for batch in batches:
                values = []
                for step in (1e-5, -1e-5):
                    with torch.no_grad():
                        layer.weight.add_(step * part)
                        values.append(loss(model, batch).item())
                        layer.weight.sub_(step * part)
                expected += ((values[0] - values[1]) / 2e-5) ** 2 / 2
            assert worths[name][i] == pytest.approx(expected, rel=1e-4, abs=1e-12)


def test_sensitivity_leaves_the_model_as_it_was_and_allocates() -> None:
    model = network().train()
    model[1].eval()
    nn.functional.cross_entropy(model(X), Y).backward()  # type: ignore[no-untyped-call]
    before = copy.deepcopy(model.state_dict())
    gradients = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    plan = lrpet.plan(model, X[:1], keep=1.0, factorize_all=True)
    worths = lrpet.sensitivity(model, plan, [(X, Y)], loss)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    after = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert all(torch.equal(a, b) for a, b in zip(gradients, after, strict=True))
    assert (model.training, model[1].training) == (True, False)
    allocated = lrpet.plan(model, X[:1], macs=0.4, allocate=worths)
    assert allocated.macs <= 0.4 * allocated.macs_dense
    assert "most worth" in allocated.budget


def test_bad_batches_are_refused() -> None:
    model = network()
    plan = lrpet.plan(model, X[:1], keep=1.0, factorize_all=True)
    with pytest.raises(ValueError, match="at least one batch"):
        lrpet.sensitivity(model, plan, [], loss)
    with pytest.raises(ValueError, match="the loss of batch 1 is nan"):
        lrpet.sensitivity(model, plan, [(X * float("nan"), Y)], loss)
    assert all(parameter.requires_grad for parameter in model.parameters())
