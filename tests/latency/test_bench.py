"""Networks against each other: what a comparison says, and what it refuses. No test looks at a clock."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import Small, images
from networks import TokenModel, token_inputs
from torch import Tensor, nn

import lrpet
from lrpet.latency.bench import bench
from lrpet.latency.by_layer import REST, layer_rows
from lrpet.latency.conditions import Conditions, at_batch
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


@pytest.fixture(scope="module")
def measured() -> Bench:
    torch.manual_seed(0)
    model = Small()
    compact = lrpet.compress(model, images(1, 3, 8, 8), keep=0.3)
    return bench(
        {"dense": model, "compact": compact},
        images(1, 3, 8, 8),
        runtimes=("eager", "onnxruntime", "openvino"),
        batch_sizes=(3, 1),
        seconds=0.0,
        layers=True,
        threads=1,
    )


def test_a_row_for_every_network_runtime_and_batch_size(measured: Bench) -> None:
    shown = [(each.network, each.runtime, each.batch_size) for each in measured.rows]
    assert shown == [
        (network, runtime, size)
        for runtime in ("eager", "onnxruntime", "openvino")
        for size in (3, 1)
        for network in ("dense", "compact")
    ]
    assert measured.first == "dense"
    firsts = {(each.runtime, each.batch_size): each for each in measured.rows if each.network == "dense"}
    for each in measured.rows:
        first = firsts[each.runtime, each.batch_size]
        assert each.time_ratio == each.milliseconds / first.milliseconds
        assert each.cost_ratio == each.cost.macs / first.cost.macs
        assert each.quartiles[0] <= each.milliseconds <= each.quartiles[1]
        assert each.rounds == 5


def test_costs_are_those_of_the_plan_for_one_example(measured: Bench) -> None:
    torch.manual_seed(0)
    plan = lrpet.plan(Small(), images(1, 3, 8, 8), keep=0.3)
    for each in measured.rows:
        dense = each.network == "dense"
        assert each.cost.macs == (plan.macs_dense if dense else plan.macs)
        assert each.cost.params == (plan.params_dense if dense else plan.params)
        assert each.cost.size >= 4 * each.cost.params


def test_layers_are_sorted_by_what_is_lost(measured: Bench) -> None:
    by_name = {each.layer: each for each in measured.layers}
    assert by_name.keys() == {"first", "norm", "second", "third", "hidden", "classifier", REST}
    assert by_name["second"].kind == "Conv2d → FactorPair"
    assert by_name["classifier"].kind == "Linear"
    assert by_name["norm"].cost_ratio is None
    assert (by_name["second"].cost_ratio or 1) < 1 == by_name["classifier"].cost_ratio
    lost = [each.lost for each in measured.layers]
    assert lost == sorted(lost, reverse=True)
    assert "lost ms" in str(measured)


def test_a_comparison_as_json_and_as_a_picture(measured: Bench, tmp_path: Path) -> None:
    measured.save(tmp_path / "bench.json")
    assert Bench.load(tmp_path / "bench.json") == measured
    values = json.loads((tmp_path / "bench.json").read_text())
    assert values["rows"][1]["realised"] == pytest.approx(measured.rows[1].realised)
    assert {"processor", "threads", "device", "versions"} <= values["machine"].keys()
    assert (values["machine"]["threads"], values["machine"]["device"]) == (1, "cpu")
    row = values["rows"][0]
    changes: list[dict[str, Any]] = [{"format": 2}, {"rows": [{}]}, {"rows": []}, {"machine": [1]}, {"layers": [{}]}]
    changes += [{"rows": [{**row, **odd}]} for odd in ({"quartiles": [1]}, {"milliseconds": "1"}, {"network": None})]
    changes += [{"rows": [{**row, **odd}]} for odd in ({"cost": 3}, {"milliseconds": float("nan")}, {"more": 1})]
    texts = ["", "[]", "{}", "[" * 100_000, *(json.dumps({**values, **change}) for change in changes)]
    for text in texts:
        (tmp_path / "other.json").write_text(text)
        with pytest.raises(ValueError, match=r"other\.json is no comparison of networks"):
            Bench.load(tmp_path / "other.json")
    measured.plot(tmp_path / "bench.png")
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match=r"bench\.odt must end with the name of an image format: .*\.png"):
        measured.plot(tmp_path / "bench.odt")


def test_a_picture_without_matplotlib(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"a plot needs matplotlib: pip install 'lrpet\[plot\]'"):
        compared([1.0] * 5).plot(tmp_path / "bench.png")
    assert list(tmp_path.iterdir()) == []


def test_one_network_alone() -> None:
    alone = bench({"mine": Small()}, images(2, 3, 8, 8), seconds=0.0)
    (only,) = alone.rows
    assert (only.network, only.batch_size, only.time_ratio, only.cost_ratio) == ("mine", 2, 1.0, 1.0)
    assert alone.verdicts() == []
    assert "mine" in alone.table()


def test_networks_of_tokens_by_keyword() -> None:
    model = TokenModel().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    told: list[str] = []
    result = bench(
        {"dense": model, "compact": lrpet.compress(model, token_inputs(), keep=0.25)},
        token_inputs(),
        batch_sizes=(4, 1),
        seconds=0.0,
        told=told.append,
    )
    assert [each.batch_size for each in result.rows if each.network == "dense"] == [4, 1]
    assert told == ["eager, batch size 4", "eager, batch size 1"]
    assert result.rows[1].cost_ratio < 1
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_lower_precision_and_another_layout() -> None:
    models = {"dense": Small()}
    result = bench(
        models,
        images(1, 3, 8, 8),
        runtimes=("eager", "openvino"),
        dtype=torch.bfloat16,
        channels_last=True,
        seconds=0.0,
    )
    assert result.machine["conditions"] == ["bfloat16", "channels_last in PyTorch", "optimised in PyTorch"]
    assert all(parameter.dtype == torch.float32 for model in models.values() for parameter in model.parameters())
    conditions = Conditions(dtype=torch.bfloat16, channels_last=True, optimized=False)
    inputs = Inputs.of((images(1, 3, 8, 8), torch.tensor([3])))
    given, form = conditions.inputs(inputs), conditions.networks(models, inputs)["dense"]
    assert [tensor.dtype for tensor in given.tensors] == [torch.bfloat16, torch.int64]
    assert given.tensors[0].is_contiguous(memory_format=torch.channels_last)
    assert {parameter.dtype for parameter in form.parameters()} == {torch.bfloat16}
    assert form.get_submodule("second").weight.is_contiguous(memory_format=torch.channels_last)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runtimes": ("eager", "slow")}, "runtime='slow' must be one of eager, compile, onnxruntime, openvino"),
        ({"runtimes": ()}, "runtimes is empty"),
        ({"batch_sizes": ()}, "batch_sizes is empty"),
        ({"batch_sizes": (0,)}, "batch size 0 must be at least 1"),
        ({"threads": 0}, "threads=0 must be a whole number, at least 1"),
        ({"dtype": torch.int8}, "dtype=torch.int8 must be one of torch.float32, torch.bfloat16, torch.float16"),
        ({"dtype": torch.float16, "runtimes": ("onnxruntime",)}, "ONNX Runtime is run in float32 on the CPU"),
        ({"cuda_graphs": True}, "cuda_graphs needs device='cuda', and the example inputs are on the CPU"),
        ({"cuda_graphs": True, "device": "cpu"}, "cuda_graphs needs device='cuda'; got device='cpu'"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bench({"dense": Small()}, images(1, 3, 8, 8), **options)


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device='cuda' was asked for, and this machine has no GPU that torch sees"):
        bench({"dense": Small()}, images(1, 3, 8, 8), device="cuda")


def test_no_networks_and_no_examples() -> None:
    with pytest.raises(ValueError, match="models is empty"):
        bench({}, images(1, 3, 8, 8))
    with pytest.raises(ValueError, match="no tensor with a leading dimension"):
        bench({"dense": Small()}, torch.tensor(1.0))
    with pytest.raises(ValueError, match="'other' has none of the names of 'dense'"):
        bench({"dense": Small(), "other": nn.Sequential(nn.Flatten())}, images(1, 3, 8, 8), layers=True, seconds=0.0)


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
