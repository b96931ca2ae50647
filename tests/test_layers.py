"""Every layer type: projected like the reference, and its factors compute what it did."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import reference
import torch
from helpers import images, matrix_macs, matrix_params
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d
from transformers.pytorch_utils import Conv1D

import lrpet
from lrpet.attention import FactorizedAttention
from lrpet.factors import Factors
from lrpet.matrix import fold, scale_of_rows, shape_of, unfold, unsupported

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 3e-2}


def factors(compact: nn.Module, name: str) -> list[Any]:
    pair = compact.get_submodule(name)
    assert isinstance(pair, Factors)
    return list(pair)


# ── convolutions ─────────────────────────────────────────────────────────────────────────────────────────────────────


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Module, str]:
    """Any convolution of one to three dimensions, and an unfolding that it can have."""
    dimensions, transposed = draw(st.sampled_from([1, 2, 2, 3])), draw(st.booleans())

    def sizes(low: int, high: int) -> st.SearchStrategy[Any]:
        return st.one_of(st.integers(low, high), st.tuples(*[st.integers(low, high)] * dimensions))

    groups = draw(st.sampled_from([1, 1, 2, 3]))
    arguments: dict[str, Any] = {
        "in_channels": groups * draw(st.integers(1, 4)),
        "out_channels": groups * draw(st.integers(1, 4)),
        "kernel_size": draw(sizes(1, 3)),
        "dilation": draw(sizes(1, 2)),
        "groups": groups,
        "bias": draw(st.booleans()),
        "dtype": draw(st.sampled_from(list(TOLERANCE))),
    }
    kinds: dict[int, Any] = TRANSPOSED if transposed else CONVOLUTIONS
    if transposed and arguments["dtype"] == torch.bfloat16:
        arguments["bias"] = False  # PyTorch leaves it out on a CPU where no kernel position falls
    if transposed:
        arguments["stride"] = draw(sizes(2, 3))
        arguments["padding"] = draw(sizes(0, 1))
        arguments["output_padding"] = draw(sizes(0, 1))
    else:
        arguments["padding"] = draw(st.one_of(sizes(0, 2), st.sampled_from(["same", "valid"])))
        arguments["stride"] = 1 if arguments["padding"] == "same" else draw(sizes(1, 3))
        arguments["padding_mode"] = draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
    torch.manual_seed(0)
    layer = kinds[dimensions](**arguments)
    spatial = dimensions == 2 and not transposed and min(layer.kernel_size) > 1
    return layer, draw(st.sampled_from(["channel", "spatial"])) if spatial else "channel"


def matrices(layer: Any, unfolding: str) -> Tensor:
    """The matrices of a convolution's groups, element by element, in float64."""
    weight = layer.weight.detach().double()
    groups = layer.groups
    if layer.transposed:  # c, n/g, k…: the rows are the outputs and kernel positions
        return torch.stack([part.flatten(1).T for part in weight.chunk(groups)])
    if unfolding == "channel":
        return torch.stack([part.flatten(1) for part in weight.chunk(groups)])
    parts = []
    for part in weight.chunk(groups):
        n, c, kh, kw = part.shape
        matrix = part.new_zeros(n * kw, c * kh)
        for i in range(n):
            for j in range(kw):
                matrix[i * kw + j] = part[i, :, :, j].flatten()
        parts.append(matrix)
    return torch.stack(parts)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@settings(max_examples=200, deadline=None, derandomize=True)
@given(convolutions(), st.booleans(), st.booleans(), st.booleans(), st.data())
def test_any_convolution(
    drawn: tuple[Any, Any], training: bool, trainable: bool, energy_transfer: bool, data: st.DataObject
) -> None:
    layer, unfolding = drawn
    layer.train(training).requires_grad_(trainable)
    dtype, shape = layer.weight.dtype, shape_of(layer, unfolding)
    x = images(2, layer.in_channels, *(7, 6, 5)[: len(layer.kernel_size)]).to(dtype)
    model = nn.Sequential(layer)
    if unsupported(layer) is not None:
        assert layer.groups > 1
        assert shape_of(layer).full_rank == 1
        with pytest.raises(ValueError, match="depthwise"):
            lrpet.plan(model, x, ranks={"0": 1})
        return
    rank = data.draw(st.integers(1, shape.full_rank))
    before = matrices(layer, unfolding)
    unfoldings: Any = {"0": unfolding} if unfolding == "spatial" else "channel"
    plan = lrpet.plan(model, x, ranks={"0": rank}, unfolding=unfoldings, factorize_all=True)
    lrpet.Projector(model, plan, every=1, energy_transfer=energy_transfer).step()

    expected = torch.stack([reference.project(each, rank, energy_transfer=energy_transfer) for each in before])
    error = (matrices(layer, unfolding) - expected).norm() / expected.norm()
    assert error <= {torch.bfloat16: 5e-3, torch.float32: 1e-5, torch.float64: 1e-10}[dtype]

    pair = lrpet.factorize(model, plan).get_submodule("0")
    assert isinstance(pair, Factors)
    assert sum(p.numel() for p in pair.parameters()) == plan.params
    assert [factor.groups for factor in pair] == [layer.groups] * 2
    assert (pair[0].bias is None, pair[1].bias is None) == (True, layer.bias is None)
    assert all(module.training == training for module in pair.modules())
    assert all((p.dtype, p.requires_grad) == (dtype, trainable) for p in pair.parameters())
    assert pair.out_channels == layer.out_channels
    for name in ("in_channels", "groups", "kernel_size", "stride", "padding", "dilation", "padding_mode"):
        assert getattr(pair, name) == getattr(layer, name)
    with torch.no_grad():
        expected = layer(x)
        torch.testing.assert_close(
            pair(x), expected, rtol=0, atol=TOLERANCE[dtype] * expected.abs().max().item() + 1e-30
        )
        if unfolding == "channel" and not layer.transposed:
            weight = layer.weight
            torch.testing.assert_close(pair.weight, weight, rtol=0, atol=TOLERANCE[dtype] * weight.abs().max().item())


@settings(max_examples=100, deadline=None, derandomize=True)
@given(convolutions())
def test_folding_undoes_unfolding(drawn: tuple[Any, Any]) -> None:
    layer, unfolding = drawn
    unfolded = unfold(layer, unfolding)
    assert torch.equal(unfolded.double(), matrices(layer, unfolding))
    assert torch.equal(fold(unfolded, layer, unfolding), layer.weight)
    alpha = torch.arange(1.0, layer.out_channels + 1, dtype=layer.weight.dtype)
    scaled = fold(scale_of_rows(alpha, layer, unfolding)[..., None] * unfolded, layer, unfolding)
    channel = (-1, *[1] * len(layer.kernel_size))
    if layer.transposed:
        of_inputs = alpha.view(layer.groups, -1).repeat_interleave(layer.in_channels // layer.groups, 0)
        assert torch.equal(scaled, of_inputs.view(*layer.weight.shape[:2], *channel[1:]) * layer.weight)
    else:
        assert torch.equal(scaled, alpha.view(channel)[:, None] * layer.weight)


@pytest.mark.parametrize(
    ("layer", "unfolding"),
    [
        (nn.Conv2d(6, 8, 3, padding=1, groups=2, bias=False), "channel"),
        (nn.Conv2d(6, 8, 3, padding=1, bias=False), "spatial"),
        (nn.ConvTranspose2d(6, 8, 3, padding=1, bias=False), "channel"),
    ],
    ids=["grouped", "spatial", "transposed"],
)
def test_rectification_folds_the_batch_norm_in(layer: Any, unfolding: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(layer, nn.BatchNorm2d(8)).eval()
    norm: Any = model[1]
    with torch.no_grad():
        norm.weight.uniform_(-2, 2)
        norm.running_var.uniform_(0.2, 3)
    x = images(2, 6, 8, 8)
    wanted: Any = {"0": unfolding} if unfolding == "spatial" else "channel"
    plan = lrpet.plan(model, x, ranks={"0": 2}, unfolding=wanted)
    assert plan.layers[0].batch_norm == "1"
    before, alpha = matrices(layer, unfolding), (norm.weight / (norm.running_var + norm.eps).sqrt()).detach().double()
    lrpet.Projector(model, plan, every=1).step()
    rows = before.shape[1] * len(before) // 8
    if unfolding == "spatial" or layer.transposed:
        alphas = alpha.repeat_interleave(rows).view(len(before), -1)
    else:
        alphas = alpha.view(len(before), -1)
    expected = torch.stack([reference.rectified(w, 2, a) for w, a in zip(before, alphas, strict=True)])
    torch.testing.assert_close(matrices(layer, unfolding), expected, rtol=0, atol=1e-5)
    compact = lrpet.factorize(model, plan)
    with torch.no_grad():
        torch.testing.assert_close(compact(x), model(x), rtol=1e-4, atol=1e-4)


def test_depthwise_stays_dense_and_says_so() -> None:
    model = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 1))
    plan = lrpet.plan(model, images(1, 8, 6, 6), keep=0.25)
    assert plan.layers[0].reason == "depthwise: each group's matrix has rank 1 already"
    assert plan.ranks == {"1": 2}


@pytest.mark.parametrize("unfolding", ["channel", "spatial"])
@pytest.mark.parametrize("stride", [1, 2, (1, 2)])
def test_a_convolution_that_pads_by_its_input(stride: Any, unfolding: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Conv2dSame(6, 8, (3, 5), stride=stride), nn.ReLU())
    x = images(2, 6, 9, 10)
    wanted: Any = {"0": unfolding} if unfolding == "spatial" else "channel"
    plan = lrpet.plan(model, x, ranks={"0": 2}, unfolding=wanted)
    lrpet.Projector(model, plan, every=1).step()
    compact = lrpet.factorize(model, plan)
    for inputs in (x, images(1, 6, 7, 12)):
        torch.testing.assert_close(compact(inputs), model(inputs), rtol=1e-4, atol=1e-5)
    assert matrix_macs(compact, x) == plan.macs


# ── unfoldings ───────────────────────────────────────────────────────────────────────────────────────────────────────


def convolutional(stride: int = 1) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(8, 8, 3, stride=stride, padding=1, bias=False), nn.Conv2d(8, 4, 1))


def test_the_cost_of_a_spatial_pair_is_that_which_runs() -> None:
    x = images(1, 8, 12, 10)
    for stride in (1, 2):
        model = convolutional(stride)
        plan = lrpet.plan(model, x, keep=0.25, unfolding="spatial")
        assert plan.layers[0].unfolding == "spatial"
        assert plan.ranks == {"0": 6, "1": 1}
        compact = lrpet.factorize(model, plan)
        assert [factor.kernel_size for factor in factors(compact, "0")] == [(3, 1), (1, 3)]
        assert matrix_macs(compact, x) == plan.macs
        assert matrix_params(compact) == plan.params
    dear = lrpet.plan(convolutional(2), x, ranks={"0": 11}, unfolding="spatial")
    assert dear.layers[0].reason == "factors of rank 11 would cost as much or more"  # at its stride, not in parameters
    assert lrpet.plan(convolutional(1), x, ranks={"0": 11}, unfolding="spatial").ranks == {"0": 11}


def test_the_best_unfolding_keeps_more_energy() -> None:
    x = images(1, 8, 12, 12)
    model = convolutional()
    layer: Any = model[0]
    with torch.no_grad():  # separable filters: rank 2 in one unfolding, 8 in the other
        layer.weight.copy_(torch.einsum("nw,ch->nchw", torch.randn(8, 3), torch.randn(8, 3)))
        layer.weight.add_(0.1 * torch.randn_like(layer.weight))
    assert lrpet.plan(model, x, macs=0.4, unfolding="best").layers[0].unfolding == "spatial"
    with torch.no_grad():
        layer.weight.copy_((torch.randn(8, 1) @ torch.randn(1, 72)).view(8, 8, 3, 3))
    plan = lrpet.plan(model, x, keep=0.2, unfolding="best")
    assert plan.layers[0].unfolding == "channel"
    assert lrpet.Plan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize(
    ("unfolding", "message"),
    [
        ("columns", "unfolding='columns' must be channel, spatial, best"),
        ({"0": "columns"}, "unfolding gives '0' 'columns'"),
        ({"1": "spatial"}, "'1', which is no two-dimensional convolution with a kernel above 1×1"),
        ({"nowhere": "spatial"}, "those are: 0"),
    ],
)
def test_a_wrong_unfolding_is_refused(unfolding: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lrpet.plan(convolutional(), images(1, 8, 6, 6), keep=0.5, unfolding=unfolding)
    with pytest.raises(ValueError, match="with ranks, or numbers as budgets, give"):
        lrpet.plan(convolutional(), images(1, 8, 6, 6), ranks={"0": 1}, unfolding="best")


# ── linears ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("shape", [(6,), (3, 6), (2, 3, 6), (2, 1, 3, 6)])
def test_a_linear_of_any_leading_dimensions(shape: tuple[int, ...]) -> None:
    model = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 2))
    plan = lrpet.plan(model, images(*shape), keep=0.34)
    assert plan.ranks == {"0": 2}
    assert plan.layers[0].macs == images(*shape)[..., 0].numel() * 2 * 15
    lrpet.Projector(model, plan, every=1).step()
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
    lrpet.Projector(model, plan, every=1).step()
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
    projector = lrpet.Projector(model, plan, every=1)
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
    lrpet.Projector(model, plan, every=1).step()
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


# ── attention ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Attending(nn.Module):
    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(12, 3, **arguments)

    def forward(self, query: Tensor, key: Tensor, **arguments: Any) -> Any:
        return self.attention(query, key, key, **arguments)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("chosen", ["both", "attention", "attention.out_proj"])
@pytest.mark.parametrize("batch_first", [True, False])
def test_attention(batch_first: bool, chosen: str, bias: bool, tmp_path: Any) -> None:
    torch.manual_seed(0)
    model = Attending(batch_first=batch_first, bias=bias).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    query, key = images(2, 5, 12), images(2, 7, 12, seed=2)
    if not batch_first:
        query, key = query.transpose(0, 1), key.transpose(0, 1)
    ranks = {name: 3 for name in ("attention", "attention.out_proj") if chosen in ("both", name)}
    before = copy.deepcopy(model)
    plan = lrpet.plan(model, (query, key), ranks=ranks)
    entry = plan.layers[0]
    assert (entry.kind, str(entry.shape)) == ("MultiheadAttention", "3 of 12×12")
    assert entry.macs_dense == 2 * (5 + 7 + 7) * 12 * 12
    if "attention" in ranks:
        assert entry.macs == 2 * (5 + 7 + 7) * 3 * 24
    assert plan.layers[1].macs_dense == 2 * 5 * 12 * 12
    lrpet.Projector(model, plan, every=1).step()
    if "attention" in ranks:
        for old, new in zip(
            before.attention.in_proj_weight.chunk(3), model.attention.in_proj_weight.chunk(3), strict=True
        ):
            torch.testing.assert_close(new.double(), reference.project(old.detach(), 3), rtol=0, atol=1e-4)
    compact = lrpet.factorize(model, plan)
    assert isinstance(compact.attention, FactorizedAttention)
    assert sum(p.numel() for p in compact.parameters()) == plan.params
    mask = torch.rand(5, 7) < 0.3
    mask[:, 0] = False
    padding = torch.tensor([[False] * 7, [False] * 4 + [True] * 3])
    per_head = torch.randn(2 * 3, 5, 7)
    for arguments in (
        {},
        {"need_weights": False},
        {"average_attn_weights": False},
        {"attn_mask": mask, "need_weights": False},
        {"attn_mask": torch.ones(5, 7).triu(1).bool(), "is_causal": True, "need_weights": False},
        {"attn_mask": per_head, "key_padding_mask": torch.zeros(2, 7).masked_fill(padding, -torch.inf)},
        {"key_padding_mask": padding},
        {"key_padding_mask": padding, "attn_mask": mask, "need_weights": False},
    ):
        expected, expected_weights = model(query, key, **arguments)
        got, weights = compact(query, key, **arguments)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
        assert (weights is None) == (expected_weights is None)
        if weights is not None:
            torch.testing.assert_close(weights, expected_weights, rtol=1e-4, atol=1e-4)
    alone = (query[0], key[0]) if batch_first else (query[:, 0], key[:, 0])
    for got, expected in zip(compact(*alone), model(*alone), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="is_causal"):
        compact(query, key, is_causal=True)

    lrpet.save(compact, tmp_path / "compact")
    loaded = lrpet.load(tmp_path / "compact", Attending(batch_first=batch_first, bias=bias))
    torch.testing.assert_close(loaded(query, key), compact(query, key))


def test_attention_drops_out_while_it_trains() -> None:
    torch.manual_seed(0)
    model, x = Attending(dropout=0.5), images(5, 2, 12)
    plan = lrpet.plan(model, (x, x), ranks={"attention": 3})
    compact = lrpet.factorize(model.train(), plan)
    for arguments in ({}, {"need_weights": False}):
        first, second = compact(x, x, **arguments)[0], compact(x, x, **arguments)[0]
        assert not torch.equal(first, second)
    assert torch.equal(compact.eval()(x, x)[0], compact(x, x)[0])


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"kdim": 12, "vdim": 12}, None),
        ({"kdim": 8}, "its query, key and value have different widths"),
        ({"add_bias_kv": True}, r"it adds a key and a value of its own \(add_bias_kv, add_zero_attn\)"),
        ({"add_zero_attn": True}, r"it adds a key and a value of its own \(add_bias_kv, add_zero_attn\)"),
    ],
)
def test_unusual_attention_stays_dense_and_says_so(arguments: dict[str, Any], reason: str | None) -> None:
    class Unusual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(12, 3, **arguments)

        def forward(self, x: Tensor, key: Tensor) -> Any:
            return self.attention(x, key, x)[0]

    model = Unusual()
    inputs = (images(5, 2, 12), images(5, 2, arguments.get("kdim", 12)))
    if reason is None:
        assert lrpet.plan(model, inputs, ranks={"attention": 3}).ranks == {"attention": 3}
    else:
        with pytest.raises(ValueError, match=reason):
            lrpet.plan(model, inputs, ranks={"attention": 3})


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage")
def test_a_transformer_with_everything_factorised() -> None:
    torch.manual_seed(0)
    x, padding = images(2, 5, 16), torch.tensor([[False] * 5, [False, False, False, True, True]])
    model = nn.Transformer(16, 2, 2, 2, 32, batch_first=True).eval()
    plan = lrpet.plan(model, (x, x), keep=0.25, include=lambda module, name: True)
    kinds = [layer.kind for layer in plan.layers if layer.rank]
    assert kinds.count("MultiheadAttention") == 2 + 4
    assert len(kinds) == 6 * 2 + 4 * 2
    lrpet.Projector(model, plan, every=1).step()
    compact = lrpet.factorize(model, plan)
    assert sum(p.numel() for n, p in compact.named_parameters() if "norm" not in n) == plan.params
    causal = nn.Transformer.generate_square_subsequent_mask(5)
    with torch.no_grad():
        torch.testing.assert_close(compact(x, x), model(x, x), rtol=1e-4, atol=1e-4)
        masks = {"src_key_padding_mask": padding, "memory_key_padding_mask": padding}
        for arguments in (masks, {**masks, "tgt_mask": causal, "tgt_is_causal": True}):
            torch.testing.assert_close(compact(x, x, **arguments), model(x, x, **arguments), rtol=1e-4, atol=1e-4)


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
    lrpet.Projector(model, plan, every=1).step()
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
