"""Numbers that cannot be computed with are refused by name, and nothing is changed or written."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import lrpet
from lrpet.projecting.projection import project

IMAGES = torch.rand(2, 3, 8, 8)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(256, 10)).eval()


def planned(model: nn.Module, **options: Any) -> lrpet.Plan:
    return lrpet.plan(model, IMAGES, **options)


DOES: dict[str, Callable[[nn.Module], object]] = {
    "plan by energy": lambda model: planned(model, macs=0.6, allocate="energy", include=["0", "2"]),
    "plan by unfolding": lambda model: planned(model, macs=0.6, unfolding="best", min_saving=0),
    "sensitivity": lambda model: lrpet.planning.sensitivity.sensitivity(
        model, planned(network(), keep=0.5), [IMAGES], lambda model, batch: model(batch).square().mean()
    ),
    "compress": lambda model: lrpet.compress(model, IMAGES, keep=0.5),
    "factorize": lambda model: lrpet.factorize(model, planned(network(), keep=0.5)),
    "project": lambda model: lrpet.Projector(model, planned(network(), keep=0.5), start=0, every=1).project(),
    "optimize": lambda model: lrpet.optimize(model, IMAGES),
}


@pytest.mark.parametrize(
    ("tensor", "value"), [("2.weight", math.nan), ("2.weight", -math.inf), ("3.running_var", -1e-6)]
)
@pytest.mark.parametrize("does", DOES)
def test_what_is_no_sound_number_is_refused_by_name(does: str, tensor: str, value: float) -> None:
    model = network()
    model.state_dict()[tensor].flatten()[3] = value
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"NaN or Inf.* negative variance") as refused:
        DOES[does](model)
    assert any(name in str(refused.value) for name in (tensor, "'2'", "of 2 at step"))
    for name, now in model.state_dict().items():
        torch.testing.assert_close(now, before[name], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("tensor", ["5.weight", "5.bias", "1.running_mean"])
def test_what_is_not_planned_is_looked_at_before_it_is_saved(tmp_path: Path, tensor: str) -> None:
    model, compact = network(), lrpet.compress(network(), IMAGES, ranks={"2": 4})
    for each in (model, compact):
        each.state_dict()[tensor].flatten()[0] = math.nan
    for does in ("compress", "factorize"):
        with pytest.raises(ValueError, match=f"in {tensor}"):
            DOES[does](model)
    with pytest.raises(ValueError, match=f"in {tensor}"):
        lrpet.save(compact, tmp_path / "compact")
    assert not list(tmp_path.iterdir())


def test_masks_may_hold_infinity(tmp_path: Path) -> None:
    model = network()
    model.register_buffer("mask", torch.full((2, 2), -math.inf))
    assert lrpet.save(lrpet.compress(model, IMAGES, ranks={"2": 4}), tmp_path / "compact").is_dir()


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.complex64])
def test_only_matrices_of_floating_point_are_projected(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match="floating point"):
        project(torch.ones(4, 6, dtype=dtype), 2)


def test_a_network_of_which_nothing_can_be_factorised_is_not_called_compact_in_silence() -> None:
    model = nn.Sequential(nn.Linear(16, 16, dtype=torch.complex64), nn.Linear(16, 16, dtype=torch.complex64))
    with pytest.warns(UserWarning, match="no layer was factorised: its weight is not a floating-point tensor"):
        lrpet.compress(model, torch.rand(1, 16, dtype=torch.complex64), keep=0.5)


@pytest.mark.parametrize(
    ("scale", "dtype"),
    [
        *itertools.product((1e19, 1e38, 1e-20, 1e-30), (torch.float32,)),
        (3e38, torch.bfloat16),
        *itertools.product((1e300, 1e-200), (torch.float64,)),
    ],
)
def test_large_and_small_weights_are_factorised_right(scale: float, dtype: torch.dtype) -> None:
    """Their squares are Inf, or 0, in the precision that they are in."""
    torch.manual_seed(0)
    matrix = (torch.randn(48, 5).sign() @ torch.randn(5, 64).sign()).to(torch.float64) / 5
    layer = nn.Linear(64, 48, bias=False, dtype=dtype)
    layer.weight.data.copy_(matrix * scale)
    model = nn.Sequential(layer)
    compact: Any = lrpet.factorize(model, lrpet.plan(model, torch.rand(1, 64, dtype=dtype), ranks={"0": 5}))
    product = (compact[0][1].weight.double() / scale) @ compact[0][0].weight.double()
    torch.testing.assert_close(product, matrix, rtol=0, atol=0.03 if dtype == torch.bfloat16 else 1e-5)


def test_float16_never_overflows_in_silence() -> None:
    """What is kept may be taken beyond the range: no weight changes then, not that of another layer either."""
    torch.manual_seed(0)
    layers = nn.Linear(64, 32), nn.Linear(32, 64), nn.Linear(64, 64)
    plan = lrpet.plan(nn.Sequential(*layers), torch.rand(1, 64), keep=0.2, include="*")
    model = nn.Sequential(*layers).half()
    layers[1].weight.data.copy_(torch.randn(64, 32).sign() * 65000)
    before = copy.deepcopy(model.state_dict())
    projector = lrpet.Projector(model, plan, start=0, every=1)
    with pytest.raises(ValueError, match="weights of 1 would be beyond the range of float16"):
        projector.project()
    assert all(torch.equal(now, before[name]) for name, now in model.state_dict().items())
    layers[1].weight.data /= 8
    projector.project()
    assert all(bool(tensor.isfinite().all()) for tensor in model.parameters())
    assert not torch.equal(layers[0].weight, before["0.weight"])


def test_weights_without_values_or_that_cannot_change_are_refused_by_name() -> None:
    plan, meta = planned(network(), keep=0.5), network().to("meta")
    with torch.inference_mode():
        inferring = network()
    with pytest.raises(ValueError, match=r"'0' was made in torch\.inference_mode"):
        lrpet.Projector(inferring, plan)
    waiting = lrpet.Projector(meta, plan, start=0, every=1)  # it may be materialised before the first projection
    for does in (
        lambda *_: waiting.step(),
        lrpet.factorize,
        lambda model, _: planned(model, keep=0.5),
        lambda model, _: DOES["compress"](model),
    ):
        with pytest.raises(ValueError, match="is on the meta device"):
            does(meta, plan)
    with pytest.raises(ValueError, match="example_inputs are on the meta device"):
        lrpet.plan(network(), IMAGES.to("meta"), keep=0.5)
    for compact in (lrpet.factorize(inferring, plan), lrpet.compress(inferring, IMAGES, keep=0.5)):
        assert not any(tensor.is_inference() for tensor in compact.state_dict().values())
