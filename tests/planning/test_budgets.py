"""Plans from budgets, on networks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import lrpet
from helpers import images, matrix_macs, matrix_params
from lrpet.models.factory import create

IMAGE = images(1, 3, 32, 32)


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    torch.manual_seed(0)
    return create("resnet20")


@pytest.mark.parametrize("how", ["uniform", "energy", "threshold"])
@pytest.mark.parametrize(
    "budgets", [{"macs": 0.45}, {"params": 0.3}, {"bytes": 0.5}, {"macs": 0.5, "params": 0.35}, {"macs": 15_000_000}]
)
def test_budgets_are_met_from_below(resnet: nn.Module, budgets: dict[str, Any], how: Any) -> None:
    plan = lrpet.plan(resnet, IMAGE, allocate=how, **budgets)
    with pytest.warns(UserWarning, match="factorize cuts energy off"):
        compact = lrpet.factorize(resnet, plan)
    assert matrix_macs(compact, IMAGE) == plan.layer_macs == plan.macs
    assert matrix_params(compact) == plan.layer_params
    assert sum(parameter.numel() for parameter in compact.parameters()) == plan.params
    spent = {
        "macs": plan.macs,
        "params": plan.params,
        "bytes": sum(t.nbytes for t in (*compact.parameters(), *compact.buffers())),
    }
    whole = {
        "macs": plan.macs_dense,
        "params": plan.params_dense,
        "bytes": sum(t.nbytes for t in (*resnet.parameters(), *resnet.buffers())),
    }
    used = [spent[name] / (value if value > 1 else value * whole[name]) for name, value in budgets.items()]
    assert max(used) <= 1
    assert max(used) > 0.99
    assert plan.budget.startswith(", ".join(f"{n}={v:g}" if v <= 1 else f"{n}={v:,.0f}" for n, v in budgets.items()))


def test_energy_keeps_more_than_uniform_ranks() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Linear(32, 32, bias=False) for _ in range(4)], nn.Linear(32, 2))
    with torch.no_grad():
        for i, decay in enumerate((0.1, 0.3, 1.0, 3.0)):  # of the spectra, from nearly flat to steep
            layer: Any = model[i]
            left, _, right = torch.linalg.svd(layer.weight)
            layer.weight.copy_(left * torch.exp(-decay * torch.arange(32) / 4) @ right)
    x = images(1, 32)

    def kept(plan: lrpet.Plan) -> float:
        total = 0.0
        for layer in plan.layers[:4]:
            energy = torch.linalg.svdvals(model.get_submodule(layer.name).weight).square()
            total += (energy[: layer.rank].sum() / energy.sum()).item()
        return total

    plans = {
        how: lrpet.plan(model, x, params=0.5, allocate=how, multiple_of=1) for how in ("uniform", "energy", "threshold")
    }
    assert kept(plans["energy"]) > kept(plans["threshold"]) > kept(plans["uniform"])
    ranks = plans["threshold"].ranks
    assert ranks["1"] > ranks["2"] > ranks["3"]
    pruned = [1 - float(plans["threshold"].layers[i].rank is None) for i in range(4)]
    assert sum(pruned) >= 3


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("how", [{"allocate": "energy"}, {"allocate": "threshold"}, {"unfolding": "best"}])
def test_weights_that_have_diverged_are_named(value: float, how: Any) -> None:
    last = nn.Conv2d(12, 12, 3)
    model = nn.Sequential(nn.Conv2d(3, 12, 3), nn.ReLU(), last).double()
    with torch.no_grad():
        last.weight[0, 0, 0, 0] = value
    with pytest.raises(ValueError, match="NaN or Inf in the weight or batch norm of '2'"):
        lrpet.plan(model, torch.zeros(1, 3, 6, 6, dtype=torch.float64), macs=0.5, **how)


def test_worths_of_ones_own_decide() -> None:
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 2))
    worths = {"0": [0.0] * 16, "1": [1.0] * 16}
    plan = lrpet.plan(model, images(1, 16), params=0.7, allocate=worths, multiple_of=1)
    assert plan.ranks == {"0": 1, "1": 6} or plan.layers[1].rank is None
    with pytest.raises(ValueError, match="allocate must give '1' 16 worths, one a singular value; got none for it"):
        lrpet.plan(model, images(1, 16), params=0.7, allocate={"0": [1.0] * 16})
    with pytest.raises(ValueError, match="a worth that is negative or not finite"):
        lrpet.plan(model, images(1, 16), params=0.7, allocate={"0": [1.0] * 16, "1": [-1.0] * 16})


@pytest.mark.parametrize("how", ["uniform", "energy", "threshold"])
def test_limits_of_ranks(resnet: nn.Module, how: Any) -> None:
    plan = lrpet.plan(resnet, IMAGE, macs=0.5, allocate=how, multiple_of=4, min_rank=4, max_rank=28)
    assert all(rank % 4 == 0 and 4 <= rank <= 28 for rank in plan.ranks.values())
    assert 0.985 * plan.macs_dense <= plan.macs / 0.5 <= plan.macs_dense


@pytest.mark.parametrize("name", ["resnet20", "resnet56", "vgg16_bn", "googlenet"])
@pytest.mark.parametrize("multiple_of", [1, 8])
def test_uniform_ranks_spend_the_budget(name: str, multiple_of: int) -> None:
    model = create(name)
    for fraction in (0.45, 0.55, 0.71):
        plan = lrpet.plan(model, IMAGE, macs=fraction, multiple_of=multiple_of)
        assert 0.99 < plan.macs / plan.macs_dense / fraction <= 1


def test_ratios_of_ones_own() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 32), nn.Linear(32, 2))
    x = images(1, 64)
    plan = lrpet.plan(model, x, params=0.5, allocate={"0": 0.2, "1": 0.4, "2": 0.8}, multiple_of=1)
    multiple = float(plan.budget.split("(")[1].split()[0])
    for name, ratio, full in (("0", 0.2, 64), ("1", 0.4, 64), ("2", 0.8, 32)):
        assert plan.ranks.get(name, full) in (int(multiple * ratio * full), int(multiple * ratio * full) + 1)
    assert 0.98 < plan.params / plan.params_dense / 0.5 <= 1
    even = lrpet.plan(model, x, params=0.5, allocate={"0": 3, "1": 3, "2": 3})
    assert even.ranks == lrpet.plan(model, x, params=0.5).ranks
    fixed = lrpet.plan(model, x, params=0.5, allocate={"0": 1.0, "1": 1.0}, overrides={"2": 5})
    assert fixed.ranks["2"] == 5  # needs no ratio
    for ratios, got in (({"0": 1.0}, "'1' a ratio above 0; got none"), ({"0": 0.0, "1": 1, "2": 1}, "'0' .* got 0.0")):
        with pytest.raises(ValueError, match=f"allocate must give {got}"):
            lrpet.plan(model, x, params=0.5, allocate=ratios)


def test_fractions_in_overrides_keep_the_limits(resnet: nn.Module) -> None:
    overrides = {"layer3.*": 0.4, "layer2.*": 11}
    ranks = lrpet.plan(resnet, IMAGE, keep=0.5, multiple_of=8, overrides=overrides).ranks
    assert ranks["layer3.1.conv1"] == 24  # of 64: 25, but a multiple of 8
    assert ranks["layer2.1.conv1"] == 11
    assert ranks["layer1.1.conv1"] == 8


def test_overrides(resnet: nn.Module) -> None:
    names = [layer.name for layer in lrpet.plan(resnet, IMAGE, keep=0.5).layers]
    first = names[0]
    overrides: dict[str, int | float | None] = {first: None, names[3]: 3, names[4]: 0.5}
    plan = lrpet.plan(resnet, IMAGE, macs=0.5, overrides=overrides)
    layers = {layer.name: layer for layer in plan.layers}
    assert (layers[first].rank, layers[first].reason) == (None, "overridden: stays dense")
    assert layers[names[3]].rank == 3
    assert layers[names[4]].rank == min(layers[names[4]].rows, layers[names[4]].columns) // 2
    assert plan.macs <= 0.5 * plan.macs_dense


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "got none"),
        ({"keep": 0.5, "macs": 0.5}, "got keep and macs"),
        ({"macs": -1}, r"macs=-1 must be a fraction .* or above 1 as a whole number of multiply-adds"),
        ({"macs": float("inf")}, "macs=inf must be a fraction"),
        ({"params": 2.5}, "params=2.5 must be a fraction"),
        ({"keep": 0.5, "allocate": "energy"}, "keep leaves nothing to divide"),
        ({"macs": 0.5, "allocate": "luck"}, "allocate='luck' must be auto, uniform, energy, threshold, sensitivity"),
        (
            {"ranks": {}, "multiple_of": 8, "allocate": "uniform"},
            "ranks alone, without min_rank, max_rank or multiple_of",
        ),
        ({"macs": 0.5, "min_rank": 0}, "min_rank=0 must be a whole number, at least 1"),
        ({"macs": 0.5, "min_rank": 9, "max_rank": 8}, "max_rank=8 is below min_rank=9"),
        ({"macs": 0.5, "overrides": {"nowhere.*": 3}}, r"overrides names 'nowhere\.\*', which matches no layer's name"),
        (
            {"macs": 0.5, "overrides": {"*": 1.5}},
            r"overrides gives '\*' 1\.5; it must be a rank \(a whole number",
        ),
        ({"macs": 1000}, r"a budget of 1,000 multiply-adds cannot be met: .* still has [\d,]+ multiply-adds"),
        ({"macs": 0.9, "params": 1000}, r"a budget of 1,000 parameters cannot be met"),
    ],
)
@pytest.mark.parametrize("how", ["uniform", "energy"])
def test_impossible_wishes_are_refused(resnet: nn.Module, arguments: dict[str, Any], message: str, how: str) -> None:
    if not {"keep", "ranks"} & arguments.keys() and how == "energy":
        arguments = {"allocate": how, **arguments}
    with pytest.raises(ValueError, match=message):
        lrpet.plan(resnet, IMAGE, **arguments)
