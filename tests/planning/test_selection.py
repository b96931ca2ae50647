"""Which layers are chosen: patterns, functions, overrides; and decisions with one reason each."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import lrpet
from helpers import Small, images

EXAMPLE = images(1, 3, 8, 8)


@pytest.mark.parametrize("include", ["*.conv*", ["*.conv*"], ("*.conv*",), lambda module, name: ".conv" in name])
def test_patterns_lists_and_functions_choose_layers(include: Any) -> None:
    model = nn.ModuleDict({"stage": nn.ModuleDict({"conv1": nn.Conv2d(3, 8, 3), "conv2": nn.Conv2d(8, 8, 3)})})
    model.add_module("other", nn.Conv2d(8, 8, 3))
    network = nn.Sequential(*[model["stage"]["conv1"]])  # type: ignore[index]

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stage, self.other = model["stage"], model["other"]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.other(self.stage["conv2"](self.stage["conv1"](x)))  # type: ignore[index, no-any-return]

    assert len(network) == 1
    assert list(lrpet.plan(Net(), EXAMPLE, keep=0.25, include=include).ranks) == ["stage.conv1", "stage.conv2"]
    assert list(lrpet.plan(Net(), EXAMPLE, keep=0.25, exclude=include).ranks) == ["other"]
    both = lrpet.plan(Net(), EXAMPLE, keep=0.25, include="stage.*", exclude="*.conv2")
    assert list(both.ranks) == ["stage.conv1"]
    reasons = {layer.name: layer.reason for layer in both.layers}
    assert reasons == {"stage.conv1": "factorised", "stage.conv2": "excluded", "other": "not included"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"include": "nowhere*"},
            r"include names 'nowhere\*', which matches no layer's name; its layers: first, second",
        ),
        ({"exclude": ["first", "nowhere*"]}, r"exclude names 'nowhere\*', which matches no layer's name"),
        ({"include": [3]}, r"include=\[3\] must be a name pattern, a list of them, or"),
        (
            {"overrides": {"first": 1.0}},
            r"overrides gives 'first' 1.0; it must be a rank .* above 0 and below 1",
        ),
        ({"overrides": {"first": True}}, "overrides gives 'first' True"),
        ({"overrides": {"first": 0}}, "overrides gives 'first' 0"),
    ],
)
def test_bad_choices_are_refused(small: Small, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lrpet.plan(small, EXAMPLE, keep=0.5, **options)


def test_an_override_of_one_is_a_rank(small: Small) -> None:
    assert lrpet.plan(small, EXAMPLE, keep=0.5, overrides={"first": 1}).ranks["first"] == 1


def test_every_dense_layer_has_its_own_reason(small: Small) -> None:
    reasons = {layer.name: layer.reason for layer in lrpet.plan(small, EXAMPLE, macs=0.5).layers}
    assert reasons["classifier"] == "not included: the classifier, the last layer to run"
    assert reasons["third"] == "factors of rank 1 would cost as much or more"
    reasons = {layer.name: layer.reason for layer in lrpet.plan(small, EXAMPLE, macs=0.97, allocate="energy").layers}
    assert "the budget is spent best with this layer whole" in reasons.values()
