"""The plan as a value: frozen, as JSON, as a table, and for which network."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from typing import Any

import pytest
from torch import nn

import lrpet
from helpers import Small, images
from lrpet.compact.card import model_card

EXAMPLE = images(1, 3, 8, 8)


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
        text.replace('"format": 2', '"format": 99'): "format 99; this version of lrpet reads formats 1 and 2",
        json.dumps({"format": 1, "budget": "", "layers": 3}): "layers must be a list",
        json.dumps({"format": 1, "budget": "", "layers": [3]}): "must have the keys",
        json.dumps(without): "must have the keys",
        damaged(text, colour="red"): "must have the keys",
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
        assert layer.reason in line
    assert lines[6].endswith(f"({plan.layers[4].params_dense / plan.params_dense:.0%} of the parameters)")
    assert "norm" in lines[2].split()
    assert lines[-1] == plan.summary()
    assert "keep=0.5: 3 of 5 layers factorised" in lines[-1]
    cut = 100 * (1 - plan.macs / plan.macs_dense)
    assert f"{plan.macs_dense / 1e6:.2f} M → {plan.macs / 1e6:.2f} M multiply-adds, {cut:.2f} % cut" in lines[-1]


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
    assert list(plan.bind(small)) == ["first", "second", "hidden"]
    with pytest.raises(ValueError, match=message):
        plan.bind(other_network(change))


def test_a_layer_twice_is_refused(small: Small) -> None:
    text = lrpet.plan(small, EXAMPLE, keep=0.5).to_json()
    values = json.loads(text)
    values["layers"].append(values["layers"][0])
    for bad in (json.dumps(values), text.replace('"budget":', '"budget": "x", "budget":', 1), "[" * 100_000):
        with pytest.raises(ValueError, match=r"not a plan: .*('first' 2 times|'budget' twice|nested deeper)"):
            lrpet.Plan.from_json(bad)
    values = {**json.loads(text), "timing": {"conditions": "", "dense": 1.0, "predicted": 0.5, "measured": None}}
    assert lrpet.Plan.from_dict(values).timing is not None
    for wrong in ({"dense": 0.0}, {"predicted": math.nan}, {"measured": -1.0}, {"dense": math.inf}):
        with pytest.raises(ValueError, match="not a plan: its timing does not fit"):
            lrpet.Plan.from_dict({**values, "timing": {**values["timing"], **wrong}})


HOSTILE = "a\x1b]0;title\x07\n| **b** | <script>`c`</script>\u202e ```"


def test_texts_of_a_file_give_no_orders(small: Small) -> None:
    """Neither to the terminal that a plan is printed on, nor in the card of what was made by it."""
    read = lrpet.plan(small, EXAMPLE, keep=0.5)
    first = dataclasses.replace(read.layers[0], name=HOSTILE, kind=HOSTILE, reason=HOSTILE)
    forged = lrpet.Plan.from_json(dataclasses.replace(read, layers=(first, *read.layers[1:]), budget=HOSTILE).to_json())
    assert forged.layers[0].reason == HOSTILE
    for text in (str(forged), forged.table(80), forged.summary(), repr(forged)):
        assert text.replace("\n", "").isprintable()
    assert len(str(forged).splitlines()) == len(str(read).splitlines())
    card = model_card(forged, name=HOSTILE, usage="x = 1")
    assert card.replace("\n", "").isprintable()
    before, usage, after = card.partition("```python\nx = 1\n```\n")
    assert usage
    assert not re.search(r"(?<!\\)[|<`*]", before)
    *_, fence = after.splitlines()
    assert set(fence) == {"`"}
    assert after.count(fence) == 2  # the table is longer than nothing that would end it
