"""Folding batch norms changes no output, and leaves alone what does not fold."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import lrpet
from helpers import images, realistic_
from lrpet.compact.folding import fold_batch_norms_
from lrpet.layers.batch_norm import is_batch_norm


class Branches(nn.Module):
    """Convolutions, a transposed one in groups, a linear; two batch norms that must stay."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.up, self.up_norm = nn.ConvTranspose2d(8, 6, 3, groups=2), nn.BatchNorm2d(6)
        self.skip, self.skip_norm = nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6)
        self.twice, self.own_norm, self.other_norm = nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6), nn.BatchNorm2d(6)
        self.linear, self.linear_norm = nn.Linear(6, 5), nn.BatchNorm1d(5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up_norm(self.up(self.norm(self.conv(x)).relu()))
        raw = self.skip(x)
        x = self.skip_norm(raw) + raw.relu()
        x = self.own_norm(self.twice(x)) + self.other_norm(self.twice(x))
        result: Tensor = self.linear_norm(self.linear(x.mean((2, 3))))
        return result


class Returning(nn.Module):
    """Returns what its batch norm takes, too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> dict[str, Any]:
        raw = self.conv(x)
        return {"raw": raw, "normed": (self.norm(raw),)}


def folded(model: nn.Module, x: Tensor) -> tuple[nn.Module, tuple[str, ...]]:
    """The network with its batch norms folded in, in float64, checked to compute what it did."""
    model = realistic_(model.double(), x.double())
    other = copy.deepcopy(model)
    names = fold_batch_norms_(other, x[:1].double())
    with torch.no_grad():
        torch.testing.assert_close(other(x.double()), model(x.double()))
    return other, names


def test_what_only_the_batch_norm_takes() -> None:
    model, names = folded(Branches(), images(4, 3, 6, 6))
    assert names == ("norm", "up_norm", "linear_norm")
    assert [name for name, module in model.named_modules() if is_batch_norm(module)] == [
        "skip_norm", "own_norm", "other_norm",
    ]  # fmt: skip


def test_what_the_network_returns_is_left_alone() -> None:
    _, names = folded(Returning(), images(4, 3, 6, 6))
    assert names == ()


def test_a_batch_norm_without_a_scale_of_its_own() -> None:
    x = images(4, 3, 6, 6)
    model = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4, affine=False))
    model(x)
    with torch.no_grad():
        expected = model.eval()(x)
        assert fold_batch_norms_(model, x) == ("1",)
        torch.testing.assert_close(model(x), expected)


def test_shared_weights_are_left_alone() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    model[2].weight = model[0].weight
    assert folded(model, images(4, 3, 6, 6))[1] == ()


@pytest.mark.parametrize("name", ["efficientnet_b0", "tf_mobilenetv3_small_minimal_100"])
def test_batch_norms_with_activations_and_depthwise_convolutions(name: str) -> None:
    model, names = folded(timm.create_model(name, num_classes=3), images(3, 3, 32, 32))
    assert len(names) > 30
    assert not any(map(is_batch_norm, model.modules()))


def test_the_second_factor_takes_it() -> None:
    x = images(8, 3, 8, 8)
    torch.manual_seed(0)
    dense = realistic_(nn.Sequential(nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12), nn.ReLU()), x)
    compact = lrpet.compress(dense, x, ranks={"0": 4})
    with torch.no_grad():
        expected = compact(x)
        first = compact.get_parameter("0.0.weight").clone()
        assert fold_batch_norms_(compact, x) == ("1",)
        torch.testing.assert_close(compact(x), expected, atol=1e-5, rtol=1e-4)
    assert torch.equal(compact.get_parameter("0.0.weight"), first)
    assert compact.get_parameter("0.1.bias").shape == (12,)
    assert isinstance(compact[1], nn.Identity)  # type: ignore[index]
