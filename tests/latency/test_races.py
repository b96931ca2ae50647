"""What a comparison makes of times, of sizes in memory, and of batches: its passes move a clock of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from helpers import images
from lrpet.latency.by_layer import REST, layer_rows
from lrpet.latency.conditions import at_batch
from lrpet.latency.measure import raced
from lrpet.latency.memory import eager_memory
from lrpet.latency.results import Bench
from lrpet.latency.rows import Cost, LayerRow, rows_of
from lrpet.layers.inputs import Inputs
from lrpet.layers.observe import observe


class Clock:
    """A clock that only passes move."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def taking(self, *seconds: float) -> Callable[[], None]:
        """Return a pass that takes these times in turn, the last one from then on."""
        remaining = list(seconds)

        def run() -> None:
            self.now += remaining.pop(0) if len(remaining) > 1 else remaining[0]

        return run


def compared(compact: list[float], *, cost: float = 0.5) -> Bench:
    dense = [8.0, 9.0, 10.0, 11.0, 12.0]
    costs = {"dense": Cost(400, 100, 100), "compact": Cost(200, int(100 * cost), 50)}
    memory = {"dense": None, "compact": 10**6}
    return Bench(tuple(rows_of({"dense": dense, "compact": compact}, memory, costs, runtime="eager", batch_size=1)))


def test_contenders_warm_up_and_take_turns() -> None:
    clock = Clock()
    passes = {"slow": clock.taking(9.0, 4.0, 2.0), "fast": clock.taking(1.0)}
    times = raced(passes, seconds=20.0, clock=clock)
    assert set(times["slow"]) == {2000.0}  # neither the first pass nor the one that still got faster
    assert set(times["fast"]) == {1000.0}
    assert len(times["slow"]) == len(times["fast"]) == 14  # of 3 seconds each, in 2 × 20
    assert len(raced(passes, seconds=0.0, clock=clock)["fast"]) == 5


def test_time_cost_and_what_is_realised() -> None:
    half = compared([6.0] * 5, cost=0.5).rows[1]
    assert (half.time_ratio, half.cost_ratio, half.milliseconds, half.rounds) == (0.6, 0.5, 6.0, 5)
    assert half.realised == pytest.approx(0.8)
    assert compared([5.0] * 5, cost=0.5).rows[1].realised == pytest.approx(1.0)
    assert compared([5.0] * 5, cost=1.0).rows[1].realised is None  # nothing was cut
    assert compared([1.0, 2.0, 3.0, 4.0, 5.0]).rows[1].quartiles == (2.0, 4.0)


@pytest.mark.parametrize(
    ("times", "said"),
    [
        ([8.0] * 5, None),
        ([9.99] * 5, "compact is not measurably faster than dense in eager at batch size 1: 9.99 ms against 10 ms"),
        ([12.0] * 5, "compact is NOT faster than dense in eager at batch size 1: 12 ms against 10 ms, with 50% of"),
    ],
)
def test_it_says_so_when_a_network_is_not_faster(times: list[float], said: str | None) -> None:
    bench = compared(times)
    assert len(bench.verdicts()) == (said is not None)
    assert (said or "\n") in bench.table()
    assert ("faster than" in str(bench)) == (said is not None)


def test_it_says_so_when_the_machine_was_busy() -> None:
    (said,) = compared([8.0] * 5).doubts()  # the dense network took 8 to 12
    assert said.startswith("The middle half of the times in eager at batch size 1 spans 20% of their median")
    assert said in compared([8.0] * 5).table()
    quiet = {"dense": [10.0] * 5, "compact": [8.0] * 5}
    costs = dict.fromkeys(quiet, Cost(400, 100, 100))
    rows = rows_of(quiet, dict.fromkeys(quiet, None), costs, runtime="eager", batch_size=1)
    assert Bench(tuple(rows)).doubts() == []


def test_a_picture_without_matplotlib(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"a plot needs matplotlib: pip install 'lrpet\[plot\]'"):
        compared([1.0] * 5).plot(tmp_path / "bench.png")
    assert list(tmp_path.iterdir()) == []


def test_batch_sizes_repeat_or_cut_what_has_the_batch() -> None:
    inputs = Inputs((images(3, 2), images(5, 2)), {"mask": images(3), "scale": torch.tensor(2.0), "flag": True})
    for size in (1, 3, 8):
        changed = at_batch(inputs, size)
        assert [tuple(tensor.shape) for tensor in changed.tensors] == [(size, 2), (5, 2), (size,), ()]
        assert changed.kwargs["flag"] is True
    assert torch.equal(at_batch(inputs, 7).tensors[0][3:6], inputs.tensors[0])


class Doubling(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x + 1) * 2 + 3


def test_memory_is_what_is_alive_at_once() -> None:
    x = images(1000)
    assert eager_memory(Doubling(), Inputs.of(x)) == 2 * 4000  # of three tensors, two at a time
    linear = nn.Linear(1000, 10)
    assert eager_memory(linear, Inputs.of(x)) == 4 * (10_010 + 10)
    assert eager_memory(nn.Identity(), Inputs.of(x)) == 0


class Slow(nn.Linear):
    """A linear layer that moves a clock."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        super().__init__(4, 4)
        self.tick = clock.taking(seconds)

    def forward(self, x: Tensor) -> Tensor:
        self.tick()
        return super().forward(x)


def test_layers_are_timed_by_all_their_calls() -> None:
    clock = Clock()
    twice = Slow(clock, 0.25)
    networks = {
        "dense": nn.Sequential(twice, twice, Slow(clock, 1.0)),
        "compact": nn.Sequential(Slow(clock, 0.5), nn.Identity(), Slow(clock, 0.25)),
    }
    x = images(1, 4)
    seen = {name: observe(network, x) for name, network in networks.items()}
    first, second, *_ = layer_rows(networks, Inputs.of(x), seen, seconds=0.0, clock=clock)
    assert (first.layer, first.dense_milliseconds, first.milliseconds) == ("0", 500.0, 500.0)
    assert first.cost_ratio == 0.5  # it ran twice
    assert first.lost == 250.0
    assert second.layer == REST
    assert LayerRow("compact", "2", "Slow", 1000.0, 250.0, 1.0).lost == -750.0
