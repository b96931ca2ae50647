"""Plans: known figures, budgets, refusals, and that no layer goes missing."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import timm
import torch
import torchvision
from helpers import images, matrix_macs, matrix_params
from torch import Tensor, nn
from torch.nn.utils import parametrizations, weight_norm

import lrpet
from lrpet.models.factory import create


class Small(nn.Module):
    """Three convolutions, the last of which is too thin to gain from factors, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 12, 3, padding=1, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(12)
        self.second = nn.Conv2d(12, 16, 3, padding=1, stride=2)
        self.third = nn.Conv2d(16, 1, 1)
        self.hidden = nn.Linear(4 * 4, 20)
        self.classifier = nn.Linear(20, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.third(self.second(self.norm(self.first(x)).relu()).relu())
        return self.classifier(self.hidden(x.flatten(1)).relu())  # type: ignore[no-any-return]


EXAMPLE = images(1, 3, 8, 8)


@pytest.fixture
def small() -> Small:
    torch.manual_seed(0)
    return Small()


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
    assert plan.macs_dense / 1e6 == pytest.approx(dense, abs=0.01)
    assert plan.macs / 1e6 == pytest.approx(compact, abs=0.01)
    assert plan.params / 1e6 == pytest.approx(params, abs=0.001)
    assert plan.macs_dense == matrix_macs(model, example)
    assert plan.params_dense == matrix_params(model)


def factorisable(plan: lrpet.Plan, name: str) -> lrpet.LayerPlan:
    (layer,) = [layer for layer in plan.layers if layer.name == name]
    return layer


def test_keep(small: Small) -> None:
    plan = lrpet.plan(small, EXAMPLE, keep=0.5)
    assert plan.ranks == {"first": 6, "second": 8, "hidden": 8}
    assert plan.budget == "keep=0.5"
    second = factorisable(plan, "second")
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
    assert factorisable(plan, "first").batch_norm == "norm"
    assert factorisable(plan, "third").reason == "factors of rank 1 would cost as much or more"
    assert factorisable(plan, "classifier").reason == "not included: the classifier, the last layer to run"


def uniform_plans(small: Small, **options: Any) -> list[lrpet.Plan]:
    """Every plan a uniform `keep` can give."""
    sizes = (12, 16)
    keeps = sorted({rank / size for size in sizes for rank in range(1, size + 1)})
    return [lrpet.plan(small, EXAMPLE, keep=keep, **options) for keep in keeps]


@pytest.mark.parametrize("factorize_all", [False, True])
@pytest.mark.parametrize("total", ["macs", "params"])
def test_budgets_are_spent_from_below(small: Small, total: str, factorize_all: bool) -> None:
    options: dict[str, Any] = {"factorize_all": factorize_all}
    costs = [getattr(plan, total) for plan in uniform_plans(small, **options)]
    dense = getattr(lrpet.plan(small, EXAMPLE, keep=1.0), f"{total}_dense")
    for fraction in (0.2, 0.25, 0.3, 0.5, 0.7, 0.9, 1.0):
        plan = lrpet.plan(small, EXAMPLE, **{total: fraction}, **options)  # type: ignore[arg-type]
        same_everywhere = max(cost for cost in costs if cost <= fraction * dense)
        assert same_everywhere <= getattr(plan, total) <= fraction * dense
        assert plan.budget.startswith(f"{total}={fraction:g} (uniform keep ")
        for name, rank in plan.ranks.items():
            if rank < factorisable(plan, name).shape.full_rank:
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
    assert factorisable(plan, "first").reason == "not among the given ranks"
    assert lrpet.plan(small, EXAMPLE, ranks={}).ranks == {}


def test_factorize_all_factorises_where_it_does_not_pay(small: Small) -> None:
    plan = lrpet.plan(small, EXAMPLE, ranks={"third": 1}, factorize_all=True)
    third = factorisable(plan, "third")
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
    assert factorisable(plan, "second").reason == "not included"
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
    assert factorisable(plan, "").reason == "VisionTransformer is not supported"  # it holds the position embedding


def test_rectify_false_records_no_batch_norm(small: Small) -> None:
    assert factorisable(lrpet.plan(small, EXAMPLE, keep=0.5, rectify=False), "first").batch_norm is None


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
    with pytest.raises(ValueError, match=f"budget of {budget:,.0f} {unit} .*still has {smallest:,} {unit}. Raise the"):
        lrpet.plan(small, EXAMPLE, **{total: 0.05})  # type: ignore[arg-type]


class OwnForward(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1


class OwnConvForward(nn.Conv2d):
    def _conv_forward(self, *args: Any) -> Tensor:
        output: Tensor = super()._conv_forward(*args)
        return output + 1


class Unsupported(nn.Module):
    """One of each kind of layer that has a matrix but cannot be factorised, and one that can."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(4, 4))
        self.supported = nn.Conv2d(4, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.grouped = nn.Conv2d(8, 8, 3, groups=2)
        self.transposed = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.own_forward = OwnForward(6, 6, 1)
        self.own_conv_forward = OwnConvForward(6, 6, 1)
        self.patched = nn.Conv2d(6, 6, 1)
        self.patched.forward = self.patched.forward  # type: ignore[method-assign]
        self.parametrized = parametrizations.spectral_norm(nn.Conv2d(6, 6, 1))
        self.computed = weight_norm(nn.Conv2d(6, 6, 1))
        self.one_dimensional = nn.Conv1d(6, 6, 3, padding=1)
        self.embedding = nn.Embedding(5, 6)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.recurrent = nn.LSTM(6, 6, batch_first=True)
        self.bilinear = nn.Bilinear(6, 6, 6)
        self.tied = nn.Linear(6, 6)
        self.tied_too = nn.Linear(6, 6)
        self.tied_too.weight = self.tied.weight
        self.tied_to_table = nn.Linear(4, 4)
        self.tied_to_table.weight = self.table
        self.unused = nn.Linear(6, 6)
        self.empty = nn.Linear(6, 0)
        self.classifier = nn.Linear(6, 3)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        x = self.grouped(self.depthwise(self.supported(x)))
        x = self.computed(self.parametrized(self.patched(self.own_conv_forward(self.own_forward(self.transposed(x))))))
        x = self.one_dimensional(x.flatten(2)).transpose(1, 2) + self.embedding(tokens)
        x, _ = self.attention(x, x, x, need_weights=False)
        x, _ = self.recurrent(x)
        self.tied_to_table(x[..., :4])
        self.empty(x)
        return self.classifier(self.bilinear(self.tied(x), self.tied_too(x)))  # type: ignore[no-any-return]


def unsupported() -> tuple[Unsupported, tuple[Tensor, Tensor]]:
    return Unsupported(), (images(1, 4, 6, 6), torch.zeros(1, 16, dtype=torch.long))


@pytest.mark.filterwarnings("ignore:.*(weight_norm|Initializing zero-element).*")
def test_nothing_is_skipped_in_silence() -> None:
    model, inputs = unsupported()
    plan = lrpet.plan(model, inputs, keep=0.25)
    assert plan.ranks == {
        "supported": 2,
        "grouped": 1,
        "transposed": 2,
        "one_dimensional": 1,
        "attention": 1,
        "attention.out_proj": 1,
        "tied": 1,
        "tied_too": 1,
    }
    reasons = {layer.name: layer.reason for layer in plan.layers}
    assert reasons == {
        "": "Unsupported is not supported",
        "supported": "factorised",
        "depthwise": "depthwise: each group's matrix has rank 1 already",
        "grouped": "factorised",
        "transposed": "factorised",
        "own_forward": "OwnForward has a forward of its own",
        "own_conv_forward": "OwnConvForward has a forward of its own",
        "patched": "Conv2d has a forward of its own",
        "parametrized": "its weight is computed by a parametrization",
        "parametrized.parametrizations.weight": "ParametrizationList is not supported",
        "computed": "its weight is computed by a parametrization",
        "one_dimensional": "factorised",
        "embedding": "Embedding is not supported",
        "attention": "factorised",
        "attention.out_proj": "factorised",
        "recurrent": "LSTM runs its weights in one fused kernel, which takes no factors",
        "bilinear": "Bilinear is not supported",
        "tied": "factorised",
        "tied_too": "factorised, sharing the weight of tied",
        "tied_to_table": "shares its weight with (root): Unsupported is not supported",
        "unused": "did not run in the observed forward pass",
        "empty": "its weight is empty",
        "classifier": "not included: the classifier, the last layer to run",
    }
    owners = {name.rpartition(".")[0] for name, p in model.named_parameters(remove_duplicate=False) if p.dim() >= 2}
    assert owners <= reasons.keys()


@pytest.mark.filterwarnings("ignore:.*(weight_norm|Initializing zero-element).*")
def test_layers_that_stay_dense_still_count() -> None:
    model, inputs = unsupported()
    plan = lrpet.plan(model, inputs, keep=0.25)
    patched = factorisable(plan, "patched")
    assert patched.macs == patched.macs_dense == 16 * 6 * 6
    factorised = [layer for layer in plan.layers if layer.rank is not None]
    saved = sum(layer.macs_dense - layer.macs for layer in factorised)
    assert plan.macs_dense - plan.macs == saved > 0
    dense = [layer for layer in plan.layers if layer.rank is None]
    assert all((layer.macs, layer.params) == (layer.macs_dense, layer.params_dense) for layer in dense)
    assert factorisable(plan, "parametrized").params == 36 + 6


@pytest.mark.filterwarnings("ignore:.*(weight_norm|Initializing zero-element).*")
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("depthwise", "depthwise"),
        ("embedding", "Embedding is not supported"),
        ("tied_to_table", "shares its weight"),
        ("unused", "did not run"),
        ("parametrized", "parametrization"),
        ("own_forward", "a forward of its own"),
    ],
)
def test_a_rank_for_a_layer_that_cannot_be_factorised_is_refused(name: str, why: str) -> None:
    model, inputs = unsupported()
    with pytest.raises(ValueError, match=f"ranks names '{name}', which cannot be factorised: .*{why}"):
        lrpet.plan(model, inputs, ranks={name: 1})


def test_shared_weights_are_counted_once() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3))
    model[1].weight = model[0].weight
    plan = lrpet.plan(model, images(1, 8), keep=1.0)
    assert plan.params_dense == sum(parameter.numel() for parameter in model.parameters())
    assert plan.macs_dense == 8 * 8 + 8 * 8 + 8 * 3


def test_the_plan_is_frozen(small: Small) -> None:
    plan = lrpet.plan(small, EXAMPLE, keep=0.5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.budget = "keep=1"  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.layers[0].rank = 3  # type: ignore[misc]
    plan.ranks["first"] = 1
    assert plan.ranks["first"] == 6
    assert isinstance(plan.layers, tuple)
    assert hash(plan) == hash(lrpet.plan(small, EXAMPLE, keep=0.5))


def test_json_round_trip(small: Small) -> None:
    for plan in (lrpet.plan(small, EXAMPLE, macs=0.5), lrpet.plan(small, EXAMPLE, ranks={})):
        assert lrpet.Plan.from_json(plan.to_json()) == plan
    assert json.loads(plan.to_json()) == plan.to_dict()


def damaged(text: str, **changes: Any) -> str:
    data = json.loads(text)
    data["layers"][0].update(changes)
    return json.dumps(data)


def test_damaged_json_is_refused(small: Small) -> None:
    text = lrpet.plan(small, EXAMPLE, keep=0.5).to_json()
    without = json.loads(text)
    del without["layers"][0]["rank"]
    refused = {
        text[: len(text) // 2]: "not a plan: the text is not JSON",
        "": "not a plan: the text is not JSON",
        "[]": "expected an object with the keys format, budget and layers",
        '{"format": 1}': "expected an object with the keys",
        text.replace('"format": 1', '"format": 99'): "format 99; this version of lrpet reads format 1",
        json.dumps({"format": 1, "budget": "", "layers": 3}): "layers must be a list",
        json.dumps({"format": 1, "budget": "", "layers": [3]}): "must have exactly the keys",
        json.dumps(without): "must have exactly the keys",
        damaged(text, colour="red"): "must have exactly the keys",
        damaged(text, rank=0): "'first' of 12×27 has rank 0",
        damaged(text, rank=13): "'first' of 12×27 has rank 13",
        damaged(text, rank="6"): "'first' of 12×27 has rank '6'",
        damaged(text, rows="12"): "wrong type in the entry of layer 'first'",
        damaged(text, macs=-1): "wrong type in the entry of layer 'first'",
        damaged(text, batch_norm=3): "wrong type in the entry of layer 'first'",
        damaged(text, name=None): "wrong type in the entry of layer None",
    }
    for bad, message in refused.items():
        with pytest.raises(ValueError, match=message):
            lrpet.Plan.from_json(bad)


def test_the_table_shows_every_layer_and_the_totals(small: Small) -> None:
    plan = lrpet.plan(small, EXAMPLE, keep=0.5)
    lines = str(plan).splitlines()
    assert len(lines) == len(plan.layers) + 4  # head, rule, layers, blank, totals
    for layer, line in zip(plan.layers, lines[2:], strict=False):
        cells = line.split()
        assert cells[0] == layer.name
        assert f"{layer.rows}×{layer.columns}" in cells
        assert ("dense" if layer.rank is None else str(layer.rank)) in cells
        for number in (layer.macs_dense, layer.macs, layer.params_dense, layer.params):
            assert f"{number:,}" in cells
        assert line.endswith(layer.reason)
    assert "norm" in lines[2].split()
    assert lines[-1] == plan.summary()
    assert "keep=0.5: 3 of 5 layers factorised" in lines[-1]
    cut = 100 * (1 - plan.macs / plan.macs_dense)
    assert f"{plan.macs_dense / 1e6:.2f} M → {plan.macs / 1e6:.2f} M multiply-adds, {cut:.2f} % cut" in lines[-1]


@pytest.mark.parametrize("wrap", [tuple, dict], ids=["positional", "by name"])
def test_example_inputs(small: Small, wrap: Any) -> None:
    inputs = {"x": EXAMPLE} if wrap is dict else (EXAMPLE,)
    assert lrpet.plan(small, inputs, keep=0.5) == lrpet.plan(small, EXAMPLE, keep=0.5)


def test_costs_are_those_of_the_example(small: Small) -> None:
    one, two = lrpet.plan(small, EXAMPLE, keep=0.5), lrpet.plan(small, images(2, 3, 8, 8), keep=0.5)
    assert (two.macs, two.macs_dense) == (2 * one.macs, 2 * one.macs_dense)
    assert (two.params, two.params_dense) == (one.params, one.params_dense)


def other_network(change: str) -> nn.Module:
    model = Small()
    if change == "absent":
        del model.second
    elif change == "shape":
        model.second = nn.Conv2d(12, 17, 3)
    elif change == "kind":
        model.second = nn.Conv2d(12, 16, 3, groups=4)
    elif change == "norm absent":
        del model.norm
    elif change == "norm kind":
        model.norm = nn.GroupNorm(2, 12)
    elif change == "norm width":
        model.norm = nn.BatchNorm2d(13)
    return model


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("absent", "'second', which this Small does not have: was the plan made for another network"),
        ("shape", "'second' to be 16×108 as a matrix, but in this model it is 17×108"),
        ("kind", "'second' to be 16×108 as a matrix, but in this model it is 4 of 4×27"),
        ("norm absent", "'first' with the batch norm 'norm', which this model lacks"),
        ("norm kind", "'first' with the batch norm 'norm', which this model lacks"),
        ("norm width", "'first' with the batch norm 'norm', which this model lacks"),
    ],
)
def test_a_plan_for_another_network_is_refused(small: Small, change: str, message: str) -> None:
    plan = lrpet.plan(small, EXAMPLE, keep=0.5)
    assert list(plan.modules(small)) == ["first", "second", "hidden"]
    with pytest.raises(ValueError, match=message):
        plan.modules(other_network(change))


def test_ranks_and_include_together_are_refused() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2))
    with pytest.raises(ValueError, match="give ranks alone, without include or overrides"):
        lrpet.plan(model, torch.zeros(1, 8), ranks={"0": 2}, include=lambda module, name: True)
