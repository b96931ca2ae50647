"""What a report says of a projection; its numbers are held against the reference in test_projector.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import lrpet
from helpers import images, small_network


def report_of(model: nn.Module) -> lrpet.Report:
    plan = lrpet.plan(model, images(1, 3, 6, 6), keep=0.25)
    return lrpet.Projector(model, plan, start=0, every=1).project()


def test_the_worst_layer_is_the_one_that_lost_most_of_its_energy() -> None:
    report = report_of(small_network())
    assert report.worst is not None
    name, fraction = report.worst
    assert fraction == report.layers[name].pruned == max(layer.pruned for layer in report.layers.values())
    assert fraction > report.pruned > 0


def test_a_dead_layer_lost_nothing() -> None:
    """It is left alone, whatever lay in the singular values beyond its rank."""
    model = small_network()
    last: Any = model[3]
    with torch.no_grad():
        last.weight.mul_(1e-6)
    report = report_of(model)
    assert report.dead == ["3"]
    assert report.layers["3"].pruned > report.layers["0"].pruned
    assert report.worst == ("0", report.layers["0"].pruned)


def test_nothing_is_worst_where_nothing_is_projected() -> None:
    model = small_network()
    plan = lrpet.plan(model, images(1, 3, 6, 6), ranks={})
    report = lrpet.Projector(model, plan, start=0, every=1).project()
    assert report.worst is None
    assert repr(report) == "Report(step=0, 0 layers, pruned 0.0 %)"


def test_a_report_is_one_line() -> None:
    model = small_network()
    report = report_of(model)
    assert repr(report) == f"Report(step=0, 2 layers, pruned {100 * report.pruned:.1f} %)"
    last: Any = model[3]
    with torch.no_grad():
        last.weight.zero_()
    assert repr(report_of(model)).endswith(" %, 1 dead)")
    assert repr(report.layers["0"]).startswith("LayerReport(rank=3, energy=")
    with pytest.raises(AttributeError):
        report.layers["0"].rank = 4  # type: ignore[misc]
