"""Networks against each other: what a comparison says, and what it refuses. No test looks at a clock."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import lrpet
from helpers import Small, images
from lrpet.latency.bench import bench
from lrpet.latency.by_layer import REST
from lrpet.latency.conditions import Conditions
from lrpet.latency.results import Bench
from lrpet.layers.inputs import Inputs
from networks import TokenModel, token_inputs
from old_torch import exporting


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


@exporting
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


@exporting
def test_costs_are_those_of_the_plan_for_one_example(measured: Bench) -> None:
    torch.manual_seed(0)
    plan = lrpet.plan(Small(), images(1, 3, 8, 8), keep=0.3)
    for each in measured.rows:
        dense = each.network == "dense"
        assert each.cost.macs == (plan.macs_dense if dense else plan.macs)
        assert each.cost.params == (plan.params_dense if dense else plan.params)
        assert each.cost.size >= 4 * each.cost.params


@exporting
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


@exporting
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


@exporting
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
