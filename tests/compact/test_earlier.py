"""What earlier versions wrote still loads: folders, plans and latency tables of format 1."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn

import lrpet
from lrpet.models.resnet import ResNet

EARLIER = Path(__file__).with_name("earlier")


def sequential() -> nn.Sequential:
    convolutions = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=2)
    return nn.Sequential(
        convolutions[0], nn.BatchNorm2d(8), nn.ReLU(), convolutions[1], nn.Flatten(), nn.Linear(128, 4)
    )


def test_a_folder_computes_what_it_did() -> None:
    compact = lrpet.load(EARLIER / "sequential", sequential())
    recorded = json.loads((EARLIER / "sequential-outputs.json").read_text(encoding="utf-8"))
    with torch.no_grad():
        torch.testing.assert_close(compact(torch.tensor(recorded["input"])), torch.tensor(recorded["output"]))
    assert lrpet.read_metadata(EARLIER / "sequential") == {"classes": ["a", "b", "c", "d"]}


def test_a_folder_that_names_its_network() -> None:
    compact = lrpet.load(EARLIER / "resnet8")
    assert isinstance(compact, ResNet)
    assert compact(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


def test_a_plan() -> None:
    plan = lrpet.Plan.from_json((EARLIER / "plan.json").read_text(encoding="utf-8"))
    assert plan.request is None
    assert plan.layers[0].unfolding == "spatial"
    assert (plan.macs, plan.params) == (plan.layer_macs, plan.layer_params)
    model = sequential()
    assert list(plan.bind(model)) == list(plan.ranks)
    lrpet.Projector(model, plan, start=0, every=1).project()
    assert lrpet.Plan.from_json(plan.to_json()) == plan


def test_a_latency_table() -> None:
    table = lrpet.LatencyTable.load(EARLIER / "latency.json")
    assert (table.network, table.milliseconds("0", 3), table.milliseconds("3", None)) == (1.5, 0.3125, 0.75)
    assert table.mismatch("0", "8×27") is None  # such a table does not know
