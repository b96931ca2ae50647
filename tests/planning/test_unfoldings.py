"""How kernels are divided where nobody says: by what is budgeted."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import lrpet
from lrpet import models
from lrpet.planning.unfolding import kept_of_random

IMAGE = torch.zeros(1, 3, 32, 32)
STRIDED = {"layer2.0.conv1", "layer3.0.conv1"}


def unfoldings(**options: Any) -> dict[str, str]:
    torch.manual_seed(0)
    plan = lrpet.plan(models.create("resnet20"), IMAGE, multiple_of=1, **options)
    return {layer.name: layer.unfolding for layer in plan.layers if layer.rank is not None}


@pytest.mark.parametrize(
    "options", [{"macs": 0.4}, {"macs": 16_000_000}, {"params": 0.4}, {"bytes": 0.4}, {"macs": 0.5, "params": 0.4}]
)
def test_budgets_of_a_cost_take_what_keeps_more_energy(options: dict[str, Any]) -> None:
    """With two strides the first of two thin kernels has more positions, so that the kernel stays whole there."""
    found, by_weights = unfoldings(**options), unfoldings(**options, unfolding="best")
    assert {name: found[name] for name in found if name != "conv1"} == {
        name: by_weights[name] for name in by_weights if name != "conv1"
    }
    assert {name for name, unfolding in found.items() if unfolding == "channel"} - {"conv1"} == STRIDED


@pytest.mark.parametrize(
    "options",
    [
        {"keep": 0.2},
        {"ranks": {"layer1.0.conv1": 3}},
        {"macs": 0.4, "allocate": {f"layer{i}.{j}.conv{k}": 1.0 for i in (1, 2, 3) for j in (0, 1, 2) for k in (1, 2)},
         "exclude": "conv1"},
    ],
)  # fmt: skip
def test_what_is_about_ranks_takes_those_of_the_paper(options: dict[str, Any]) -> None:
    assert set(unfoldings(**options).values()) == {"channel"}


def test_a_rank_that_is_asked_for_is_one_of_the_paper() -> None:
    found = unfoldings(macs=0.4, overrides={"layer1.*": 5, "layer2.2.conv2": 0.3})
    assert {found[name] for name in found if name.startswith("layer1") or name == "layer2.2.conv2"} == {"channel"}
    assert found["layer3.2.conv2"] == "spatial"


@pytest.mark.parametrize(("rows", "columns"), [(64, 576), (192, 192), (48, 9), (100, 150)])
def test_the_energy_that_random_matrices_keep(rows: int, columns: int) -> None:
    torch.manual_seed(0)
    energy = torch.linalg.svdvals(torch.randn(40, rows, columns)).square().mean(0)
    kept = energy.cumsum(0) / energy.sum()
    full = min(rows, columns)
    for rank in range(1, full + 1):
        assert kept_of_random(rows, columns, rank) == pytest.approx(
            float(kept[rank - 1]), abs=0.02 if full > 9 else 0.06
        )
    assert kept_of_random(rows, columns, 0) == 0


def test_less_energy_is_pruned_at_equal_multiply_adds() -> None:
    pruned = {}
    for unfolding in ("channel", "auto"):
        torch.manual_seed(0)
        network = models.create("resnet20")
        options: Any = {"allocate": "energy", "multiple_of": 1, "unfolding": unfolding}
        plan = lrpet.plan(network, IMAGE, macs=0.3, **options).settled()
        assert 0.29 < plan.macs / plan.macs_dense <= 0.3
        pruned[unfolding] = lrpet.Projector(network, plan, start=0, every=1).project().pruned
    assert pruned["auto"] < 0.95 * pruned["channel"]
