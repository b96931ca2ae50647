"""How a run comes to its ranks: budgets divided by trained weights, falling ranks, plans, given weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import lrpet
from lrpet.train.task import Task
from runs import lines, quick, run, weights


@pytest.mark.parametrize(("how", "said"), [("energy", "most energy"), ("sensitivity", "most worth")])
def test_ranks_that_fall_to_a_budget_divided_by_what_weights_are(tmp_path: Path, how: str, said: str) -> None:
    options = {
        "every": 4,
        "start": 0,
        "descent": 0.6,
        "allocate": how,
        "multiple_of": 2,
        "macs": 0.4,
        "params": 0.5,
    }
    summary = run(quick(tmp_path / "run", epochs=3, **options))
    plan = lrpet.Plan.from_json((tmp_path / "run" / "plan.json").read_text())
    assert summary["budget"] == plan.budget
    assert plan.budget.startswith(f"macs=0.4, params=0.5 ({said}")
    assert summary["macs"] == plan.macs <= 0.4 * summary["macs_dense"]
    assert summary["params"] == plan.params <= 0.5 * summary["params_dense"]
    assert all(rank % 2 == 0 for rank in plan.ranks.values())
    in_force = [line["ranks"] for line in lines(tmp_path / "run") if "ranks" in line]
    assert len(in_force) > 2
    assert in_force[0] != in_force[-1] == plan.ranks
    loaded = lrpet.load(tmp_path / "run" / "compact")
    assert loaded.lrpet_plan == plan
    with pytest.raises(ValueError, match=r"allocate=energy divides a budget .* in place of keep"):
        quick(tmp_path / "other", allocate="energy", macs=None, keep=0.5)
    with pytest.raises(ValueError, match=r"allocate=energy divides a budget .* in place of the plan"):
        quick(tmp_path / "other", allocate="energy", macs=None, plan=tmp_path / "run" / "plan.json")
    with pytest.raises(ValueError, match="nothing is trained when projections begin"):
        quick(tmp_path / "other", allocate="energy", start=0)


def test_ranks_that_are_divided_at_the_first_projection(tmp_path: Path) -> None:
    run(quick(tmp_path / "run", every=2, epochs=3, macs=0.4))
    in_force = [(line["step"], line["ranks"]) for line in lines(tmp_path / "run") if "ranks" in line]
    plan = lrpet.Plan.from_json((tmp_path / "run" / "plan.json").read_text())
    assert plan.budget.startswith("macs=0.4 (most energy")
    assert in_force[0] == (16, plan.ranks)  # of 33 steps
    assert all(ranks == plan.ranks for _, ranks in in_force)


@pytest.mark.parametrize(
    "limit",
    [
        {"min_rank": 2},
        {"max_rank": 9},
        {"multiple_of": 4},
        {"include": ("*",)},
        {"exclude": ("*",)},
        {"min_saving": 0.01},
        {"factorize_all": True},
    ],
)
def test_a_plan_takes_no_limits(tmp_path: Path, limit: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"a plan says the rank of every layer itself: leave out {next(iter(limit))}$"):
        quick(tmp_path / "run", macs=None, plan=tmp_path / "plan.json", **limit)


def test_a_run_starts_from_given_weights(tmp_path: Path) -> None:
    dense = tmp_path / "dense"
    run(quick(dense, method="dense", macs=None, epochs=1))
    given = weights(dense)
    for start in (dense, dense / "compact", dense / "compact" / "model.safetensors"):
        network = Task.of(quick(tmp_path / "other", weights=start)).network.state_dict()
        assert given.keys() == network.keys()
        assert all(torch.equal(given[name], network[name]) for name in given)
    with pytest.raises(FileNotFoundError, match=r"nowhere is no file, nor a folder with model\.safetensors"):
        Task.of(quick(tmp_path / "other", weights=tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="does not hold the weights of this network"):
        Task.of(quick(tmp_path / "other", weights=dense, model="resnet32"))
    (tmp_path / "broken").write_text("no weights")
    with pytest.raises(ValueError, match="does not hold the weights of this network"):
        Task.of(quick(tmp_path / "other", weights=tmp_path / "broken"))
