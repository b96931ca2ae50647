"""The factors of one layer: their product, their shapes and how they share singular values."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lrpet
import reference
from helpers import images
from lrpet.layers.factors import FactorPair


def projected(model: nn.Module, x: Any, rank: int) -> tuple[nn.Module, lrpet.Plan]:
    """`model` with its layer "0" projected, and the plan for that."""
    plan = lrpet.plan(model, x, ranks={"0": rank}, factorize_all=True)
    lrpet.Projector(model, plan, start=0, every=1).step()
    return model, plan


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12), (torch.bfloat16, 3e-2)]
)
@pytest.mark.parametrize("bias", [True, False])
def test_any_linear(dtype: torch.dtype, tolerance: float, bias: bool) -> None:
    torch.manual_seed(0)
    x = images(2, 5, 12).to(dtype)
    layer = nn.Linear(12, 9, bias=bias, dtype=dtype)
    layer.weight.requires_grad_(False)
    model, plan = projected(nn.Sequential(layer), x, 4)
    pair = lrpet.factorize(model, plan).get_submodule("0")
    assert isinstance(pair, nn.Sequential)
    assert [tuple(p.shape) for p in pair.parameters()] == [(4, 12), (9, 4), (9,)][: 3 if bias else 2]
    assert [p.requires_grad for p in pair.parameters()] == [False, False, True][: 3 if bias else 2]
    assert all(p.dtype == dtype for p in pair.parameters())
    expected = layer(x)
    assert (pair(x) - expected).abs().max() <= tolerance * expected.abs().max()


def test_the_factors_share_the_singular_values_evenly() -> None:
    """√Σ·Vᵀ and U·√Σ: the Gram matrices of both factors are Σ."""
    torch.manual_seed(0)
    model, plan = projected(nn.Sequential(nn.Linear(12, 9).double()), images(1, 12).double(), 4)
    first, second = lrpet.factorize(model, plan).get_submodule("0").children()
    assert isinstance(first.weight, Tensor)
    assert isinstance(second.weight, Tensor)
    sigma = torch.diag(reference.singular_values(model.get_submodule("0").weight.detach())[:4])  # type: ignore[operator]
    torch.testing.assert_close(first.weight @ first.weight.T, sigma)
    torch.testing.assert_close(second.weight.T @ second.weight, sigma)


def test_a_weight_that_was_not_projected_is_cut_off() -> None:
    """Without rectification that is the nearest matrix of the rank; with it, the nearest of the folded matrix."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 10, 3), nn.BatchNorm2d(10)).eval()
    with torch.no_grad():
        model[1].weight.copy_(torch.linspace(0.1, 3, 10))  # type: ignore[operator]
    weight = model[0].weight.detach().flatten(1)  # type: ignore[operator]
    alpha = torch.linspace(0.1, 3, 10) / (1 + 1e-5) ** 0.5
    for rectify, expected in (
        (False, reference.project(weight, 3, energy_transfer=False)),
        (True, reference.rectified(weight, 3, alpha, energy_transfer=False)),
    ):
        plan = lrpet.plan(model, images(1, 4, 5, 5), ranks={"0": 3}, rectify=rectify)
        first, second = lrpet.factorize(model, plan).get_submodule("0").children()
        assert isinstance(first.weight, Tensor)
        assert isinstance(second.weight, Tensor)
        product = second.weight.flatten(1) @ first.weight.flatten(1)
        assert (product - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-9)])
@pytest.mark.parametrize(("rows", "columns"), [(200, 300), (300, 200)])
def test_factors_of_large_matrices(rows: int, columns: int, dtype: torch.dtype, tolerance: float) -> None:
    """Their decomposition is made within the span of their columns; singular values over six decades."""
    random = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(rows, 30, generator=random, dtype=torch.float64)).Q
    right = torch.linalg.qr(torch.randn(columns, 30, generator=random, dtype=torch.float64)).Q
    weight = (left * torch.logspace(2, -4, 30, dtype=torch.float64)) @ right.T
    layer = nn.Linear(columns, rows, bias=False, dtype=dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
    plan = lrpet.plan(nn.Sequential(layer), images(1, columns).to(dtype), ranks={"0": 30})
    pair = lrpet.factorize(nn.Sequential(layer), plan).get_submodule("0")
    assert isinstance(pair, FactorPair)
    assert (pair.weight - layer.weight).norm() <= tolerance * layer.weight.norm()
    norms = [torch.linalg.matrix_norm(parameter.double(), 2).item() for parameter in pair.parameters()]
    assert norms == pytest.approx([10, 10], rel=1e-5)
