"""Tables of what layers take, and plans by them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lrpet
from helpers import images
from lrpet.cli import main
from lrpet.latency.profile import profile_latency
from networks import TokenModel, token_inputs
from old_torch import runtimes


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.Linear(16, 2))


TABLE = lrpet.LatencyTable(
    network=10.0,
    dense={"0": 4.0, "2": 4.0},
    factorised={"0": {2: 1.0, 4: 2.0, 8: 4.5}, "2": {2: 5.0, 4: 4.5, 8: 6.0}},  # the second is never faster
)


def test_between_and_beyond_what_was_measured() -> None:
    assert [TABLE.milliseconds("0", rank) for rank in (1, 2, 3, 4, 6, 8, 9)] == [1, 1, 1.5, 2, 3.25, 4.5, 4.5]
    assert TABLE.milliseconds("0", None) == 4
    assert TABLE.milliseconds("2", 4) == 5  # noise: a higher rank takes no less than a lower one


@pytest.mark.parametrize("how", ["uniform", "energy", "threshold"])
def test_no_layer_is_factorised_where_that_was_no_faster(how: Any) -> None:
    x = images(1, 16)
    plan = lrpet.plan(network(), x, latency=0.81, latency_table=TABLE, allocate=how)
    assert set(plan.ranks) == {"0"}
    assert plan.ranks["0"] == 4  # 10 − 4 + 2 = 8 of 10; at rank 5 it would be 8.6
    assert lrpet.plan(network(), x, latency=7.5, latency_table=TABLE, allocate=how).ranks == {"0": 3}
    both = lrpet.plan(network(), x, latency=0.9, params=0.85, latency_table=TABLE, allocate=how)
    assert set(both.ranks) == {"0"}
    assert both.params <= 0.85 * both.params_dense
    assert set(lrpet.plan(network(), x, keep=0.25, latency_table=TABLE).ranks) == {"0"}
    assert lrpet.plan(network(), x, params=0.99, latency_table=TABLE, allocate=how).ranks.keys() <= {"0"}


def convolutions() -> nn.Sequential:
    torch.manual_seed(0)
    first, second = (nn.Conv2d(16, 16, 3, padding=1) for _ in range(2))
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Conv2d(16, 2, 1))


def proportional(spatial: float | None) -> lrpet.LatencyTable:
    """Return times in proportion to the multiply-adds, times a factor where kernels are divided as 3×1 and 1×3."""
    channel = {rank: 160 * rank / 2304 for rank in (2, 8, 12)}
    thin = {} if spatial is None else {rank: spatial * 96 * rank / 2304 for rank in (2, 8, 16)}
    return lrpet.LatencyTable(
        network=2.1,
        dense={"0": 1.0, "2": 1.0},
        factorised={"0": channel, "2": channel},
        shapes={"0": "16×144", "2": "16×144", "4": "2×16"},
        spatial={"0": thin, "2": thin} if thin else {},
    )


@pytest.mark.parametrize("budget", [{"latency": 0.5}, {"latency": 1.05}, {"macs": 0.5}, {"macs": 0.5, "latency": 0.9}])
@pytest.mark.parametrize("unfolding", ["auto", "best"])
@pytest.mark.parametrize(("slower", "expected"), [(1.0, "spatial"), (2.0, "channel"), (None, "channel")])
def test_a_kernel_is_divided_as_keeps_more_energy_in_the_time(
    slower: float | None, expected: str, unfolding: Any, budget: dict[str, Any]
) -> None:
    options: Any = {"latency_table": proportional(slower), "unfolding": unfolding, "multiple_of": 1, **budget}
    plan = lrpet.plan(convolutions(), images(1, 16, 6, 6), **options)
    assert {layer.unfolding for layer in plan.layers if layer.rank is not None} == {expected}
    assert plan.timing is not None
    assert plan.timing.predicted <= budget.get("latency", 1) * (2.1 if budget.get("latency", 1) <= 1 else 1) + 1e-9
    assert set(plan.bind(convolutions())) == {"0", "2"}


def test_a_division_that_is_asked_for_is_the_one_whose_times_count() -> None:
    x = images(1, 16, 6, 6)
    options: Any = {"latency": 0.5, "multiple_of": 1}
    for unfolding in ("channel", "spatial"):
        plan = lrpet.plan(convolutions(), x, latency_table=proportional(1.0), unfolding=unfolding, **options)
        assert {layer.unfolding for layer in plan.layers if layer.rank is not None} == {unfolding}
        cost = {"channel": 160, "spatial": 96}[unfolding]
        spent = sum(cost * rank / 2304 for rank in plan.ranks.values())
        assert plan.timing is not None
        assert plan.timing.predicted == pytest.approx(0.1 + spent)
    with pytest.raises(ValueError, match="latency_table has no times for 0, 2"):
        lrpet.plan(convolutions(), x, latency_table=proportional(None), unfolding="spatial", **options)
    plan = lrpet.plan(convolutions(), x, keep=0.25, latency_table=proportional(1.0))
    assert {layer.unfolding for layer in plan.layers} == {"channel"}
    other = nn.Sequential(nn.Conv2d(16, 8, 3), nn.Conv2d(8, 2, 1))
    with pytest.raises(ValueError, match="'0' was 16×144 there and is 8×144 here"):
        lrpet.plan(other, x, latency_table=proportional(1.0), **options)


def test_impossible_latencies_are_refused() -> None:
    x = images(1, 16)
    with pytest.raises(ValueError, match=r"a budget of 5 milliseconds cannot be met: .* still has 7 milliseconds"):
        lrpet.plan(network(), x, latency=0.5, latency_table=TABLE)
    with pytest.raises(ValueError, match="give runtime, such as 'onnxruntime', or latency_table"):
        lrpet.plan(network(), x, latency=0.5)
    with pytest.raises(ValueError, match="latency_table has no times for 0"):
        lrpet.plan(network(), x, latency=0.5, latency_table=lrpet.LatencyTable(1.0, {}, {}))


#: What stands in the place of runtime, device, inputs and threads where a file is damaged.
SOURCES: tuple[Any, ...] = (
    [{}],
    None,
    "eager",
    {"input": 1},
    {"input": {"x": 1}},
    {"input": [[1], 2]},
    {"input": ["1"]},
)


def test_a_table_as_a_file(tmp_path: Path) -> None:
    for table in (TABLE, proportional(2.0)):
        table.save(tmp_path / "table.json")
        assert lrpet.LatencyTable.load(tmp_path / "table.json") == table
    for text in (
        "",
        "[]",
        "{}",
        json.dumps({"format": 2}),
        json.dumps({"format": 1, "network": 1, "layers": [], "source": {}}),
        *(json.dumps({"format": 1, "network": 1, "layers": {}, "source": source}) for source in SOURCES),
    ):
        (tmp_path / "other.json").write_text(text)
        with pytest.raises(ValueError, match=r"other\.json is no table of latencies"):
            lrpet.LatencyTable.load(tmp_path / "other.json")


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Conv2d(8, 8, 3, padding=1)
        self.same = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.same(self.twice(self.twice(x))).mean((2, 3)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("bad", ["-0.5", "NaN", "Infinity", "-Infinity", "1e999", "true", '"fast"'])
def test_a_table_of_impossible_times_is_refused(tmp_path: Path, bad: str) -> None:
    """Wherever the time stands: of the network, of a layer, at a rank, and of what a network realises."""
    path = tmp_path / "table.json"
    proportional(1.0).save(path)
    text = path.read_text()
    numbers = list(re.finditer(r"(?<=: )[0-9.]+(?=,?\n)", text))
    assert len(numbers) > 4
    for number in numbers:
        path.write_text(text[: number.start()] + bad + text[number.end() :])
        if bad != "true" or number.group() != "1":  # which format 1 equals
            with pytest.raises(ValueError, match="is no table of latencies"):
                lrpet.LatencyTable.load(path)
    path.write_text(text.replace('"network":', '"network": 9.0, "network":'))
    with pytest.raises(ValueError, match="'network' twice"):
        lrpet.LatencyTable.load(path)


@pytest.mark.parametrize("runtime", runtimes("eager", "compile", "onnxruntime", "openvino"))
@pytest.mark.filterwarnings("ignore")
def test_measuring(runtime: Any) -> None:
    model = Twice().train()
    told: list[str] = []
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    table = profile_latency(
        model, images(2, 8, 6, 6), runtime=runtime, ladder=(0.25, 0.5), seconds=0.01, told=told.append
    )
    assert told == ["twice", "head"]  # the other has its shape
    assert table.dense.keys() == table.factorised.keys() == {"twice", "same", "head"}
    assert table.dense["twice"] == 2 * table.dense["same"] > 0
    assert list(table.factorised["same"]) == [2, 4]
    assert {name: list(ranks) for name, ranks in table.spatial.items()} == {"twice": [8, 16], "same": [8, 16]}
    assert table.network > 0
    assert table.source["runtime"] == runtime
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    with pytest.raises(ValueError, match="runtime='slow' must be"):
        profile_latency(model, images(2, 8, 6, 6), runtime="slow")  # type: ignore[arg-type]


def test_measuring_a_network_of_several_inputs() -> None:
    model = TokenModel()
    table = profile_latency(model, token_inputs(), ladder=(0.5,), seconds=0.0)
    assert set(table.dense) == {"query", "key", "value", "up", "down", "head"}
    assert table.source["input"] == [[2, 7], [2, 7]]


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.cross = nn.MultiheadAttention(16, 2, batch_first=True)
        self.head = nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        return self.head(self.cross(y[:, :2], key=y, value=y)[0])  # type: ignore[no-any-return]


@pytest.mark.parametrize("runtime", runtimes("eager", "onnxruntime"))
@pytest.mark.filterwarnings("ignore")
def test_measuring_attentions(runtime: Any) -> None:
    model, x = Attending(), images(3, 5, 16)
    table = profile_latency(model, x, runtime=runtime, ladder=(0.25, 0.5), seconds=0.01)
    projections = {f"{name}{part}" for name in ("layer.self_attn", "cross") for part in ("", ".out_proj")}
    assert set(table.dense) == {*projections, "layer.linear1", "layer.linear2", "head"}
    assert all(list(ranks) == [8] for name, ranks in table.factorised.items() if name != "head")
    slow = lrpet.LatencyTable(10.0, dict.fromkeys(table.dense, 1.0), {name: {4: 0.5, 8: 0.9} for name in table.dense})
    plan = lrpet.plan(model, x, latency=0.75, latency_table=slow, multiple_of=1)
    assert plan.ranks.keys() == table.dense.keys() - {"head"}
    lrpet.factorize(model, plan)(x)


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = str(tmp_path / "table.json")
    assert main(["profile-latency", "resnet20", table, "--seconds", "0.001", "--image-size", "16"]) == 0
    assert "20 layers, of which" in capsys.readouterr().out
    assert {"runtime", "command", "commit", "hardware", "versions"} <= lrpet.LatencyTable.load(table).source.keys()
    assert main(["plan", "resnet20", "--latency-table", table, "--macs", "0.9", "--image-size", "16"]) in (0, 2)
    assert main(["plan", "resnet20", "--latency", "0.5", "--image-size", "16"]) == 2
    assert "give runtime" in capsys.readouterr().err
