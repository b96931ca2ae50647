"""Weight-standardised convolutions: the standardised weight is projected exactly, and becomes plain factors."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from timm.layers.std_conv import ScaledStdConv2d, ScaledStdConv2dSame
from torch import nn

import lrpet
import reference
from helpers import images
from lrpet.layers.factors import FactorPair
from lrpet.layers.kinds import layer_of
from lrpet.layers.standardized import StandardizedConvolution


def convolution(**options: Any) -> Any:
    torch.manual_seed(0)
    kind = options.pop("kind", ScaledStdConv2d)
    layer = kind(8, 12, 3, **options)
    with torch.no_grad():
        layer.weight.mul_(torch.linspace(0.1, 3, 12).view(-1, 1, 1, 1)).add_(0.3)
        layer.gain.uniform_(-2, 2)
        layer.gain[3] = 0
    return layer


@pytest.mark.parametrize(
    "options",
    [{}, {"groups": 2}, {"stride": 2, "bias": False}, {"kind": ScaledStdConv2dSame, "stride": 2}, {"gamma": 1.7}],
)
def test_the_standardised_weight_is_projected_exactly(options: dict[str, Any]) -> None:
    layer = convolution(**options).double()
    model = nn.Sequential(layer)
    x = images(2, 8, 9, 9).double()
    kind = layer_of(layer)
    assert isinstance(kind, StandardizedConvolution)
    before, spread = kind.matrices().detach(), layer.weight.flatten(1).std(1)
    plan = lrpet.plan(model, x[:1], ranks={"0": 3})
    lrpet.Projector(model, plan, start=0, every=1).project()
    expected = torch.stack([reference.project(matrix, 3) for matrix in before])
    torch.testing.assert_close(kind.matrices().detach(), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(layer.weight.flatten(1).std(1), spread)  # the effective learning rate stays

    compact = lrpet.factorize(model, plan)
    pair = compact.get_submodule("0")
    assert isinstance(pair, FactorPair)
    assert not any("gain" in name for name, _ in pair.named_parameters())
    assert sum(parameter.numel() for parameter in compact.parameters()) == plan.params
    with torch.no_grad():
        torch.testing.assert_close(compact(x), model(x), rtol=1e-8, atol=1e-8)


def test_a_normaliser_free_network(tmp_path: Any) -> None:
    torch.manual_seed(0)
    model = timm.create_model("nf_regnet_b0", num_classes=5).eval()
    for module in model.modules():
        if isinstance(module, ScaledStdConv2d):
            nn.init.uniform_(module.gain, 0.5, 1.5)  # the last ones of the blocks start at zero
    x = images(2, 3, 64, 64)
    plan = lrpet.plan(model, x[:1], macs=0.6)
    standardised = [layer for layer in plan.layers if layer.kind.startswith("ScaledStd") and layer.rank]
    assert len(standardised) > 20
    lrpet.Projector(model, plan, start=0, every=1).project()
    compact = lrpet.factorize(model, plan).eval()
    with torch.no_grad():
        expected = model(x)
        torch.testing.assert_close(compact(x), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_sensitivity_refuses_what_it_cannot_see_through() -> None:
    model = nn.Sequential(convolution(), nn.Flatten(), nn.Linear(12 * 36, 2))
    x = images(2, 8, 6, 6)
    plan = lrpet.plan(model, x, keep=0.5)
    with pytest.raises(ValueError, match="the weights of 0 are standardised"):
        lrpet.sensitivity(model, plan, [x], lambda model, batch: model(batch).sum())
