"""Plans by what is measured here: layers, then the network as planned, and what is kept of both."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lrpet
from helpers import images
from lrpet.latency import cache, timed
from lrpet.latency.profile import Interrupted
from lrpet.planning.measured import UNTIMED
from old_torch import runtimes

LAYERS = ("0", "2", "4")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32), nn.Linear(32, 2)]
    return nn.Sequential(*layers)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LRPET_CACHE", str(tmp_path / "cache"))


class Clock:
    """Stands in for both measurements: layers take a millisecond per 4 ranks, and networks realise a part of that."""

    def __init__(self, realised: float) -> None:
        self.realised = realised
        self.profiled = self.raced = 0
        self.interrupted = False

    def profile_latency(self, model: nn.Module, inputs: Any, **options: Any) -> lrpet.LatencyTable:
        self.profiled += 1
        table = lrpet.LatencyTable(
            network=40.0,
            dense=dict.fromkeys(LAYERS, 10.0),
            factorised={name: {1: 0.25, 32: 8.0} for name in LAYERS},
            source={"runtime": options["runtime"], "device": "cpu", "input": [1, 32], "threads": 1},
            shapes={**dict.fromkeys(LAYERS, "32×32"), "5": "2×32"},
        )
        if self.interrupted:
            raise Interrupted(table)
        return table

    def race(self, passes: Mapping[str, Any], **_: Any) -> dict[str, list[float]]:
        self.raced += 1
        for run in passes.values():
            run()
        return {"dense": [40.0] * 3, "compact": [self.compact] * 3}

    def factorize(self, model: nn.Module, plan: lrpet.Plan) -> nn.Module:
        self.compact = 40 - self.realised * sum(10 - rank / 4 for rank in plan.ranks.values())
        return lrpet.factorize(model, plan)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock(0.7)
    monkeypatch.setattr(timed, "profile_latency", clock.profile_latency)
    monkeypatch.setattr(timed, "raced", clock.race)
    monkeypatch.setattr(timed, "factorize", clock.factorize)
    return clock


def test_the_budget_is_met_by_the_whole_network(clock: Clock) -> None:
    plan = lrpet.plan(network(), images(1, 32), latency=0.6, runtime="eager", multiple_of=1)
    assert plan.timing is not None
    assert plan.timing.measured == pytest.approx(clock.compact)
    assert 0.57 * 40 < clock.compact <= 0.6 * 40 * 1.001
    assert plan.timing.predicted == pytest.approx(clock.compact, abs=0.02 * 40)
    assert clock.raced == 2  # what layers save alone was too hopeful, once
    assert "40 → 2" in plan.summary()
    assert "cut as measured (eager, cpu, 1×32, 1 threads)" in plan.summary()


def test_what_was_measured_is_measured_once(clock: Clock, tmp_path: Path) -> None:
    plans = [lrpet.plan(network(), images(1, 32), latency=0.6, runtime="eager") for _ in range(2)]
    assert plans[0] == plans[1]
    assert (clock.profiled, clock.raced) == (1, 2)
    lrpet.plan(network(), images(1, 32), latency=0.7, runtime="eager")
    assert clock.profiled == 1
    lrpet.plan(network(), images(1, 32), latency=0.6, runtime="compile")
    lrpet.plan(network().double(), images(1, 32).double(), latency=0.6, runtime="eager")
    assert clock.profiled == 3
    lrpet.plan(network(), images(2, 32), latency=0.6, runtime="eager")
    assert clock.profiled == 4
    for file in (tmp_path / "cache").rglob("*.json"):
        file.write_text("{")
    lrpet.plan(network(), images(1, 32), latency=0.6, runtime="eager")
    assert clock.profiled == 5


def test_a_folder_that_cannot_be_written_costs_nothing_but_time(clock: Clock, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file, where a folder should be")
    plan = lrpet.plan(network(), images(1, 32), latency=0.6, runtime="eager")
    assert plan.timing is not None
    assert plan.timing.measured is not None


def test_interrupted_measuring_goes_on_where_it_stopped(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock.interrupted = True
    with pytest.raises(KeyboardInterrupt):
        lrpet.plan(network(), images(1, 32), latency=0.6, runtime="eager")
    given: dict[str, Any] = {}

    def resumed(model: nn.Module, inputs: Any, **options: Any) -> lrpet.LatencyTable:
        given.update(options)
        clock.interrupted = False
        return clock.profile_latency(model, inputs, **options)

    monkeypatch.setattr(timed, "profile_latency", resumed)
    lrpet.plan(network(), images(1, 32), latency=0.6, runtime="eager")
    assert set(given["known"].dense) == set(LAYERS)


def test_budgets_that_cannot_be_met_name_the_floor(clock: Clock) -> None:
    with pytest.raises(
        ValueError, match=r"still has 1[0-9.]+ milliseconds\. Parts that stay dense.*outside the layers"
    ):
        lrpet.plan(network(), images(1, 32), latency=0.2, runtime="eager")
    clock.realised = -0.1
    with pytest.raises(
        ValueError, match=r"latency=0\.6 cannot be met: the network as planned takes 1\.\d\d of the dense"
    ):
        lrpet.plan(network(), images(1, 32), latency=0.6, runtime="compile")
    with pytest.warns(UserWarning, match="low rank does not pay here"):
        lrpet.plan(network(), images(1, 32), macs=0.5, runtime="compile")


def test_layers_without_times_stay_dense(clock: Clock) -> None:
    plan = lrpet.plan(network(), images(1, 32), latency=0.7, runtime="eager", include="*")
    assert {layer.name: layer.reason for layer in plan.layers}["5"] == UNTIMED


def test_options_that_do_not_go_together_are_refused() -> None:
    table = lrpet.LatencyTable(1.0, {}, {})
    with pytest.raises(ValueError, match="not both"):
        lrpet.plan(network(), images(1, 32), latency=0.5, runtime="eager", latency_table=table)
    with pytest.raises(ValueError, match="runtime='tensorrt' must be one of eager"):
        lrpet.plan(network(), images(1, 32), latency=0.5, runtime="tensorrt")  # type: ignore[arg-type]


def test_what_is_wrong_is_said_before_anything_is_measured(clock: Clock) -> None:
    with pytest.raises(ValueError, match="ranks names '7', which is no layer"):
        lrpet.plan(network(), images(1, 32), ranks={"7": 3}, runtime="eager")
    with pytest.raises(ValueError, match="unfolding names '0', which is no two-dimensional convolution"):
        lrpet.plan(network(), images(1, 32), latency=0.5, runtime="eager", unfolding={"0": "spatial"})
    assert clock.profiled == 0
    lrpet.plan(network(), images(1, 32), latency=24.0, runtime="eager", unfolding="best")
    assert clock.profiled == 1


def test_a_timing_is_saved_with_its_plan(clock: Clock) -> None:
    plan = lrpet.plan(network(), images(1, 32), latency=0.6, runtime="eager")
    read = lrpet.Plan.from_json(plan.to_json())
    assert read.timing == plan.timing
    damaged = json.loads(plan.to_json())
    damaged["timing"] = {"dense": "fast"}
    with pytest.raises(ValueError, match="not a plan: its timing does not fit"):
        lrpet.Plan.from_dict(damaged)


@pytest.mark.parametrize("runtime", runtimes("eager", "onnxruntime"))
@pytest.mark.filterwarnings("ignore")
def test_measuring_for_real(runtime: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timed, "LAYER_SECONDS", 0.001)

    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(64, 1024), nn.Linear(1024, 1024)
            self.head = nn.Linear(1024, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.down(self.up(x).relu()).relu())  # type: ignore[no-any-return]

    plan = lrpet.plan(Wide(), images(1, 64), macs=0.3, runtime=runtime)
    assert plan.timing is not None
    assert plan.timing.measured is not None
    assert f"({runtime}, cpu, 1×64, " in plan.summary()
    tables = [file for file in (tmp_path / "cache" / "latency").iterdir() if not file.name.endswith(".whole.json")]
    assert set(lrpet.LatencyTable.load(tables[0]).dense) == {"up", "down", "head"}
    assert cache.folder() == tmp_path / "cache"
