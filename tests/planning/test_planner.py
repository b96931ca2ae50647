"""From budgets to plans: known figures, what is spent, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn

import lrpet
from helpers import Small, images, layer_of, matrix_macs, matrix_params
from lrpet.models.factory import create

EXAMPLE = images(1, 3, 8, 8)


KNOWN = [  # network, side, pruning ratio, multiply-adds before and after in M, parameters after in M
    ("resnet56", 32, 0.57, 125.49, 56.06, 0.394),
    ("resnet110", 32, 0.65, 252.89, 93.78, 0.655),
    ("resnet18", 224, 0.58, 1814.07, 860.88, 5.814),
    ("resnet34", 224, 0.58, 3663.76, 1715.38, 10.511),
    ("resnet50", 224, 0.62, 4089.18, 1902.87, 12.887),
]


@pytest.mark.parametrize(("name", "side", "p", "dense", "compact", "params"), KNOWN, ids=[row[0] for row in KNOWN])
def test_published_figures(name: str, side: int, p: float, dense: float, compact: float, params: float) -> None:
    model = create(name, num_classes=10, in_channels=3) if side == 32 else torchvision.models.get_model(name)
    example = images(1, 3, side, side)
    plan = lrpet.plan(model, example, keep=1 - p)
    assert plan.layer_macs_dense / 1e6 == pytest.approx(dense, abs=0.01)
    assert plan.layer_macs / 1e6 == pytest.approx(compact, abs=0.01)
    assert plan.layer_params / 1e6 == pytest.approx(params, abs=0.001)
    assert plan.layer_macs_dense == matrix_macs(model, example)
    assert plan.layer_params_dense == matrix_params(model)


def test_keep(small: Small) -> None:
    plan = lrpet.plan(small, EXAMPLE, keep=0.5)
    assert plan.ranks == {"first": 6, "second": 8, "hidden": 8}
    assert plan.budget == "keep=0.5"
    second = layer_of(plan, "second")
    assert second == lrpet.LayerPlan(
        name="second",
        kind="Conv2d",
        rows=16,
        columns=108,
        groups=1,
        unfolding="channel",
        rank=8,
        macs_dense=16 * 16 * 108,
        macs=16 * 8 * (16 + 108),
        params_dense=16 * 108 + 16,
        params=8 * (16 + 108) + 16,
        batch_norm=None,
        reason="factorised",
    )
    assert layer_of(plan, "first").batch_norm == "norm"
    assert layer_of(plan, "third").reason == "factors of rank 1 would cost as much or more"
    assert layer_of(plan, "classifier").reason == "not included: the classifier, the last layer to run"


def uniform_plans(small: Small, **options: Any) -> list[lrpet.Plan]:
    """Every plan a uniform `keep` can give."""
    sizes = (12, 16)
    keeps = sorted({rank / size for size in sizes for rank in range(1, size + 1)})
    return [lrpet.plan(small, EXAMPLE, keep=keep, **options) for keep in keeps]


@pytest.mark.parametrize("factorize_all", [False, True])
@pytest.mark.parametrize("total", ["macs", "params"])
def test_budgets_are_spent_from_below(small: Small, total: str, factorize_all: bool) -> None:
    options: dict[str, Any] = {"factorize_all": factorize_all, "multiple_of": 1, "unfolding": "channel"}
    costs = [getattr(plan, total) for plan in uniform_plans(small, **options)]
    dense = getattr(lrpet.plan(small, EXAMPLE, keep=1.0), f"{total}_dense")
    for fraction in (0.2, 0.25, 0.3, 0.5, 0.7, 0.9, 1.0):
        plan = lrpet.plan(small, EXAMPLE, **{total: fraction}, min_saving=0.0, **options)  # type: ignore[arg-type]
        same_everywhere = max(cost for cost in costs if cost <= fraction * dense)
        assert same_everywhere <= getattr(plan, total) <= fraction * dense
        assert plan.budget.startswith(f"{total}={fraction:g} (uniform keep ")
        for name, rank in plan.ranks.items():
            if rank < layer_of(plan, name).shape.full_rank:
                more = lrpet.plan(small, EXAMPLE, ranks={**plan.ranks, name: rank + 1}, **options)
                assert getattr(more, total) > fraction * dense


def test_the_next_larger_keep_would_exceed_the_budget(small: Small) -> None:
    plans = uniform_plans(small)
    chosen = lrpet.plan(small, EXAMPLE, macs=0.5)
    larger = min(plan.macs for plan in plans if plan.macs > chosen.macs)
    assert chosen.macs <= 0.5 * chosen.macs_dense < larger


def test_given_ranks(small: Small) -> None:
    plan = lrpet.plan(small, EXAMPLE, ranks={"second": 5, "classifier": 3})
    assert plan.ranks == {"second": 5, "classifier": 3}
    assert plan.budget == "ranks"
    assert layer_of(plan, "first").reason == "not among the given ranks"
    assert lrpet.plan(small, EXAMPLE, ranks={}).ranks == {}


def test_factorize_all_factorises_where_it_does_not_pay(small: Small) -> None:
    plan = lrpet.plan(small, EXAMPLE, ranks={"third": 1}, factorize_all=True)
    third = layer_of(plan, "third")
    assert third.rank == 1
    assert third.macs == 17 * 16 > third.macs_dense == 16 * 16
    assert lrpet.plan(small, EXAMPLE, ranks={"third": 1}).ranks == {}


def test_include(small: Small) -> None:
    seen: dict[str, nn.Module] = {}

    def linears(module: nn.Module, name: str) -> bool:
        seen[name] = module
        return isinstance(module, nn.Linear)

    plan = lrpet.plan(small, EXAMPLE, keep=0.25, include=linears)
    assert plan.ranks == {"hidden": 4, "classifier": 2}
    assert layer_of(plan, "second").reason == "not included"
    assert all(module is small.get_submodule(name) for name, module in seen.items())
    assert lrpet.plan(small, EXAMPLE, keep=0.5, include=lambda module, name: name == "first").ranks == {"first": 6}


def test_by_default_only_the_last_linear_is_left_out() -> None:
    ends_with_convolution = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))
    assert lrpet.plan(ends_with_convolution, EXAMPLE, keep=0.25).ranks == {"0": 2, "1": 2}
    vit = timm.models.vision_transformer.VisionTransformer(
        img_size=16, patch_size=8, embed_dim=12, depth=1, num_heads=2, num_classes=5
    )
    plan = lrpet.plan(vit, images(1, 3, 16, 16), keep=0.25)
    names = ["patch_embed.proj", *(f"blocks.0.{layer}" for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"))]
    assert list(plan.ranks) == names
    assert layer_of(plan, "").reason == "VisionTransformer is not supported"  # it holds the position embedding


def test_rectify_false_records_no_batch_norm(small: Small) -> None:
    assert layer_of(lrpet.plan(small, EXAMPLE, keep=0.5, rectify=False), "first").batch_norm is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "one or more budgets of macs, params, bytes and latency; got none"),
        ({"keep": 0.5, "macs": 0.5}, "got keep and macs"),
        ({"params": 0.5, "ranks": {}}, "got params and ranks"),
        ({"keep": 0.0}, r"keep=0.0 must be a fraction above 0 and at most 1"),
        ({"keep": -0.1}, "keep=-0.1 must be"),
        ({"keep": float("nan")}, "keep=nan must be"),
        ({"keep": "0.5"}, "keep='0.5' must be"),
        ({"macs": 1.5}, "macs=1.5 must be a fraction"),
        ({"params": 45}, "a budget of 45 parameters cannot be met"),
        ({"ranks": {"nonesuch": 3}}, "'nonesuch', which is no layer of this network; its layers: first, second"),
        ({"ranks": {"norm": 3}}, "'norm', which is no layer"),
        ({"ranks": {"first": 0}}, "'first' the rank 0; it must be a whole number from 1 to 12"),
        ({"ranks": {"first": 13}}, "'first' the rank 13; it must be a whole number from 1 to 12"),
        ({"ranks": {"first": 2.0}}, "'first' the rank 2.0; it must be a whole number"),
        ({"ranks": {"first": True}}, "'first' the rank True; it must be a whole number"),
        ({"macs": 0.5, "include": lambda module, name: False}, "no layer of this network was chosen.* widen `include`"),
    ],
)
def test_what_is_refused(small: Small, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lrpet.plan(small, EXAMPLE, **options)


@pytest.mark.parametrize(("total", "unit"), [("macs", "multiply-adds"), ("params", "parameters")])
def test_an_impossible_budget_names_the_smallest_possible(small: Small, total: str, unit: str) -> None:
    smallest = getattr(lrpet.plan(small, EXAMPLE, keep=1e-9), total)
    budget = 0.05 * getattr(lrpet.plan(small, EXAMPLE, keep=1.0), f"{total}_dense")
    assert smallest > budget
    with pytest.raises(ValueError, match=f"budget of {budget:,.0f} {unit} .*still has {smallest:,} {unit}"):
        lrpet.plan(small, EXAMPLE, unfolding="channel", **{total: 0.05})  # type: ignore[arg-type]


@pytest.mark.parametrize("wrap", [tuple, dict], ids=["positional", "by name"])
def test_example_inputs(small: Small, wrap: Any) -> None:
    inputs = {"x": EXAMPLE} if wrap is dict else (EXAMPLE,)
    assert lrpet.plan(small, inputs, keep=0.5) == lrpet.plan(small, EXAMPLE, keep=0.5)


def test_costs_are_those_of_the_example(small: Small) -> None:
    one, two = lrpet.plan(small, EXAMPLE, keep=0.5), lrpet.plan(small, images(2, 3, 8, 8), keep=0.5)
    assert (two.macs, two.macs_dense) == (2 * one.macs, 2 * one.macs_dense)
    assert (two.params, two.params_dense) == (one.params, one.params_dense)


def test_ranks_and_include_together_are_refused() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2))
    with pytest.raises(ValueError, match="give ranks alone, without include, exclude or overrides"):
        lrpet.plan(model, torch.zeros(1, 8), ranks={"0": 2}, include=lambda module, name: True)
