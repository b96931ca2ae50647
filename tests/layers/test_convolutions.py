"""Every convolution and its unfoldings: projected like the reference, and its factors compute what it did."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn

import lrpet
import reference
from helpers import factors, images, matrix_macs, matrix_params
from lrpet.layers.factors import FactorPair
from lrpet.layers.kinds import layer_of
from lrpet.layers.matrix import MatrixLayer

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 3e-2}


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


def bound(layer: Any, unfolding: Any = "channel") -> MatrixLayer:
    found = layer_of(layer, unfolding=unfolding)
    assert found is not None
    return found


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
    dtype, shape = layer.weight.dtype, bound(layer, unfolding).shape
    x = images(2, layer.in_channels, *(7, 6, 5)[: len(layer.kernel_size)]).to(dtype)
    model = nn.Sequential(layer)
    if bound(layer).refusal() is not None:
        assert layer.groups > 1
        assert bound(layer).shape.full_rank == 1
        with pytest.raises(ValueError, match="depthwise"):
            lrpet.plan(model, x, ranks={"0": 1})
        return
    rank = data.draw(st.integers(1, shape.full_rank))
    before = matrices(layer, unfolding)
    unfoldings: Any = {"0": unfolding} if unfolding == "spatial" else "channel"
    plan = lrpet.plan(model, x, ranks={"0": rank}, unfolding=unfoldings, factorize_all=True)
    lrpet.Projector(model, plan, start=0, every=1, energy_transfer=energy_transfer).step()

    expected = torch.stack([reference.project(each, rank, energy_transfer=energy_transfer) for each in before])
    error = (matrices(layer, unfolding) - expected).norm() / expected.norm()
    assert error <= {torch.bfloat16: 5e-3, torch.float32: 1e-5, torch.float64: 1e-10}[dtype]

    pair = lrpet.factorize(model, plan).get_submodule("0")
    assert isinstance(pair, FactorPair)
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
        if not layer.transposed:
            weight = layer.weight.detach()
            torch.testing.assert_close(pair.weight, weight, rtol=0, atol=TOLERANCE[dtype] * weight.abs().max().item())


@settings(max_examples=100, deadline=None, derandomize=True)
@given(convolutions())
def test_folding_undoes_unfolding(drawn: tuple[Any, Any]) -> None:
    layer, unfolding = drawn
    kind = bound(layer, unfolding)
    unfolded = kind.matrices()
    assert torch.equal(unfolded.double(), matrices(layer, unfolding))
    assert torch.equal(kind.tensor(unfolded), layer.weight)
    alpha = torch.arange(1.0, layer.out_channels + 1, dtype=layer.weight.dtype)
    scaled = kind.tensor(kind.rows(alpha)[..., None] * unfolded)
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
    lrpet.Projector(model, plan, start=0, every=1).step()
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
    lrpet.Projector(model, plan, start=0, every=1).step()
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
        ("columns", "unfolding='columns' must be auto, channel, spatial, best"),
        ({"0": "columns"}, "unfolding gives '0' 'columns'"),
        ({"1": "spatial"}, "'1', which is no two-dimensional convolution with a kernel above 1×1"),
        ({"nowhere": "spatial"}, "those are: 0"),
    ],
)
def test_a_wrong_unfolding_is_refused(unfolding: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lrpet.plan(convolutional(), images(1, 8, 6, 6), keep=0.5, unfolding=unfolding)
    with pytest.raises(ValueError, match="with ranks, give"):
        lrpet.plan(convolutional(), images(1, 8, 6, 6), ranks={"0": 1}, unfolding="best")
