"""Linears, shared, frozen and reached-for weights, recurrent layers, batch norms."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import FrozenBatchNorm2d
from transformers.pytorch_utils import Conv1D

import lrpet
import reference
from helpers import factors, images

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 3e-2}


# ── linears ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("shape", [(6,), (3, 6), (2, 3, 6), (2, 1, 3, 6)])
def test_a_linear_of_any_leading_dimensions(shape: tuple[int, ...]) -> None:
    model = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 2))
    plan = lrpet.plan(model, images(*shape), keep=0.34)
    assert plan.ranks == {"0": 2}
    assert plan.layers[0].macs == images(*shape)[..., 0].numel() * 2 * 15
    lrpet.Projector(model, plan, start=0, every=1).step()
    x = images(*shape, seed=3)
    torch.testing.assert_close(lrpet.factorize(model, plan)(x), model(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_linear_of_gpt2(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Conv1D(24, 8), nn.GELU(), Conv1D(8, 24)).to(dtype)  # type: ignore[no-untyped-call]
    x = images(2, 5, 8).to(dtype)
    layer: Any = model[0]
    before = layer.weight.detach().clone()
    plan = lrpet.plan(model, x, ranks={"0": 3})
    assert [(layer.kind, layer.rows, layer.columns) for layer in plan.layers] == [("Conv1D", 24, 8), ("Conv1D", 8, 24)]
    assert plan.layers[0].macs_dense == 10 * 24 * 8
    lrpet.Projector(model, plan, start=0, every=1).step()
    expected = reference.project(before.T, 3).T
    assert (layer.weight.double() - expected).norm() <= TOLERANCE[dtype] * expected.norm()
    compact = lrpet.factorize(model, plan)
    assert [type(factor) for factor in factors(compact, "0")] == [nn.Linear, nn.Linear]
    assert sum(p.numel() for p in compact.parameters()) == plan.params
    with torch.no_grad():
        wanted = model(x)
        assert (compact(x) - wanted).abs().max() <= TOLERANCE[dtype] * wanted.abs().max()


def test_what_takes_a_layers_place_answers_as_it_did() -> None:
    """Networks ask their layers for dtype, device and width."""
    pair: Any = lrpet.factorize(nn.Linear(6, 9), lrpet.plan(nn.Linear(6, 9), images(1, 6), ranks={"": 2}))
    assert (pair.in_features, pair.out_features, pair.weight.dtype) == (6, 9, torch.float32)
    assert pair.bias is pair.get_submodule("1").bias
    assert set(pair.state_dict()) == {"0.weight", "1.weight", "1.bias"}
    with pytest.raises(AttributeError, match="kernel_size"):
        pair.kernel_size  # noqa: B018


def test_a_product_is_formed_only_to_compute_with_it() -> None:
    """T5 asks for the dtype of a weight at every pass, which would cost more than the layer itself."""
    pair: Any = lrpet.compress(nn.Conv2d(6, 9, 3, groups=3), images(1, 6, 5, 5), ranks={"": 2})
    with FlopCounterMode(display=False) as counter:
        weight = pair.weight
        assert (weight.dtype, weight.device, weight.shape) == (torch.float32, torch.device("cpu"), (9, 2, 3, 3))
        assert (weight.dim(), weight.size(0), weight.numel(), weight.ndim) == (4, 9, 162, 4)
    assert counter.get_total_flops() == 0
    left, right = pair[1].weight.view(3, 3, 2), pair[0].weight.view(3, 2, 18)
    wanted = (left @ right).view(9, 2, 3, 3)
    assert type(weight + 0) is Tensor
    assert torch.equal(weight, wanted)
    (weight.to(torch.float64) ** 2).sum().backward()
    grad = pair[0].weight.grad.clone()
    pair.zero_grad()
    (wanted.double() ** 2).sum().backward()
    assert torch.equal(pair[0].weight.grad, grad)


# ── shared, frozen and reached-for weights ───────────────────────────────────────────────────────────────────────────


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(8, 8)
        self.two = nn.Linear(8, 8)
        self.two.weight = self.one.weight
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.two(self.one(x).relu()).relu())  # type: ignore[no-any-return]


def test_a_shared_weight_is_projected_once_factorised_once_and_still_shared(tmp_path: Any) -> None:
    torch.manual_seed(0)
    model, x = Tied(), images(2, 8)
    plan = lrpet.plan(model, x, keep=0.25)
    assert plan.ranks == {"one": 2, "two": 2}
    assert plan.layers[1].reason == "factorised, sharing the weight of one"
    assert (plan.layers[0].params, plan.layers[1].params) == (2 * 16 + 8, 8)
    before = model.one.weight.detach().clone()
    projector = lrpet.Projector(model, plan, start=0, every=1)
    report = projector.step()
    assert report is not None
    assert list(report.layers) == ["one"]
    expected = reference.project(before, 2)
    torch.testing.assert_close(model.one.weight.double(), expected, rtol=0, atol=1e-5)
    assert model.two.weight is model.one.weight
    compact = lrpet.factorize(model, plan)
    one, two = factors(compact, "one"), factors(compact, "two")
    assert all(mine.weight is theirs.weight for mine, theirs in zip(one, two, strict=True))
    assert one[1].bias is not two[1].bias
    assert sum(p.numel() for p in compact.parameters()) == plan.params
    torch.testing.assert_close(compact(x), model(x))
    lrpet.save(compact, tmp_path / "compact")
    loaded = lrpet.load(tmp_path / "compact", Tied())
    assert factors(loaded, "one")[0].weight is factors(loaded, "two")[0].weight
    torch.testing.assert_close(loaded(x), model(x))
    with pytest.raises(ValueError, match="'two', which shares the weight of 'one'"):
        lrpet.plan(model, x, ranks={"two": 2})
    assert lrpet.plan(model, x, ranks={"one": 3}).ranks == {"one": 3, "two": 3}


def test_frozen_weights_are_left_alone_unless_asked_for() -> None:
    model, x = Tied(), images(2, 8)
    model.one.weight.requires_grad_(False)
    plan = lrpet.plan(model, x, keep=0.25, include=None)
    assert plan.ranks == {}
    assert plan.layers[0].reason == "frozen (its weight does not require gradients)"
    assert lrpet.plan(model, x, keep=0.25, include=lambda module, name: name != "head").ranks == {"one": 2, "two": 2}


class Reaching(nn.Module):
    """One weight is computed with by the parent, another only looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = nn.Linear(8, 8)
        self.looked_at = nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.linear(self.reached(x), self.reached.weight)
        x = x.to(self.looked_at.weight.dtype).to(self.looked_at.weight.device)
        return self.head(self.looked_at(x))  # type: ignore[no-any-return]


def test_a_weight_that_others_compute_with_stays_dense() -> None:
    model, x = Reaching(), images(2, 8)
    plan = lrpet.plan(model, x, keep=0.25)
    assert plan.ranks == {"looked_at": 2}
    assert plan.layers[0].reason == "its weight is used outside its own forward"
    lrpet.Projector(model, plan, start=0, every=1).step()
    torch.testing.assert_close(lrpet.factorize(model, plan)(x), model(x))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_stay_dense_and_say_so(kind: Any) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.recurrent = kind(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.recurrent(x)[0]  # type: ignore[no-any-return]

    (layer,) = lrpet.plan(Recurrent(), images(4, 2, 8), ranks={}).layers
    assert layer.reason == f"{kind.__name__} runs its weights in one fused kernel, which takes no factors"


# ── batch norms ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Norms(nn.Module):
    """A frozen norm, a norm with an activation, and pairings that fold into nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.to_frozen = nn.Conv2d(3, 8, 3)
        self.frozen = FrozenBatchNorm2d(8)
        self.to_active = nn.Conv2d(8, 8, 3)
        self.active = BatchNormAct2d(8)
        self.to_two = nn.Conv2d(8, 8, 3)
        self.one, self.other = nn.BatchNorm2d(8), nn.SyncBatchNorm(8)
        self.first_of_two, self.second_of_two = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.shared = nn.BatchNorm2d(8)
        self.to_forgetful = nn.Conv2d(8, 8, 1)
        self.forgetful = nn.BatchNorm2d(8, track_running_stats=False)
        self.to_group = nn.Conv2d(8, 8, 1)
        self.group = nn.GroupNorm(2, 8)
        self.to_plain = nn.Conv2d(8, 8, 1)
        self.plain = nn.BatchNorm2d(8, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.active(self.to_active(self.frozen(self.to_frozen(x))))
        x = self.to_two(x)
        x = self.one(x) + self.other(x)
        x = self.shared(self.first_of_two(x)) + self.shared(self.second_of_two(x))
        x = self.group(self.to_group(self.forgetful(self.to_forgetful(x))))
        return self.plain(self.to_plain(x))  # type: ignore[no-any-return]


def test_which_batch_norms_rectify_and_why_others_do_not() -> None:
    torch.manual_seed(0)
    model, x = Norms().eval(), images(2, 3, 12, 12)
    norms: dict[str, Any] = {"to_frozen": model.frozen, "to_active": model.active, "to_plain": model.plain}
    for norm in norms.values():
        norm.running_var.uniform_(0.2, 3)
    plan = lrpet.plan(model, x, keep=0.25, factorize_all=True)
    found = {layer.name: (layer.batch_norm, layer.reason) for layer in plan.layers}
    assert found == {
        "to_frozen": ("frozen", "factorised"),
        "to_active": ("active", "factorised"),
        "to_two": (None, "factorised; not rectified: it feeds 2 batch norms"),
        "first_of_two": (None, "factorised; not rectified: shared takes the output of others too"),
        "second_of_two": (None, "factorised; not rectified: shared takes the output of others too"),
        "to_forgetful": (None, "factorised; not rectified: forgetful keeps no running statistics"),
        "to_group": (None, "factorised"),
        "to_plain": ("plain", "factorised"),
    }
    before = copy.deepcopy(model)
    lrpet.Projector(model, plan, start=0, every=1).step()
    for name, norm in norms.items():
        gamma = torch.ones(8) if norm.weight is None else norm.weight
        alpha = (gamma / (norm.running_var + norm.eps).sqrt()).detach()
        old: Any = before.get_submodule(name)
        new: Any = model.get_submodule(name)
        expected = reference.rectified(old.weight.flatten(1), 2, alpha)
        torch.testing.assert_close(new.weight.flatten(1).double(), expected, rtol=0, atol=1e-5)
    compact = lrpet.factorize(model, plan)
    with torch.no_grad():
        torch.testing.assert_close(compact(x), model(x), rtol=1e-3, atol=1e-4)
