"""`lrpet bench`: which networks it compares, and what it leaves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import lrpet
from lrpet import models
from lrpet.cli import main
from lrpet.latency.results import Bench

QUICK = ["--seconds", "0.001", "--image-size", "8"]


def measured(tmp_path: Path, *arguments: str) -> Bench:
    assert main(["bench", *arguments, *QUICK, "--json", str(tmp_path / "bench.json")]) == 0
    return Bench.load(tmp_path / "bench.json")


def networks_of(bench: Bench) -> list[str]:
    return list(dict.fromkeys(row.network for row in bench.rows))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a compact resnet8."""
    torch.manual_seed(0)
    network = models.create("resnet8")
    compact = lrpet.compress(network, torch.randn(1, 3, 8, 8), keep=0.25)
    return lrpet.save(compact, tmp_path / "compact")


def test_a_name_with_a_budget(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--macs", "0.5", "--exclude", "layer1.*", "--batch-sizes", "1", "2", "--threads", "1", "--layers"]
    result = measured(tmp_path, "resnet8", *more, "--plot", str(tmp_path / "bench.png"))
    assert networks_of(result) == ["dense", "compact"]
    assert [row.batch_size for row in result.rows] == [1, 1, 2, 2]
    assert 0.45 < result.rows[1].cost_ratio <= 0.5
    kinds = {row.layer: row.kind for row in result.layers}
    assert kinds["layer1.0.conv1"] == "Conv2d"
    assert kinds["layer2.0.conv1"] == "Conv2d → FactorPair"
    assert {"command", "commit", "processor", "versions"} <= result.machine.keys()
    assert result.machine["threads"] == 1
    out = capsys.readouterr().out
    assert "measuring eager, batch size 2" in out
    assert str(result).partition("\n\n")[2] in out
    assert (tmp_path / "bench.png").stat().st_size > 1000


def test_names_give_the_terminal_no_orders(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither those of networks nor those of files, in what commands print."""
    hostile = folder.rename(tmp_path / "a[red]\x1b]0;title\x07\u202e")
    assert networks_of(measured(tmp_path, str(hostile), "resnet8", "--layers")) == [str(hostile), "resnet8"]
    assert main(["profile-latency", "resnet8", str(hostile / "table.json"), *QUICK]) == 0
    said = capsys.readouterr().out
    assert said.count(r"a[red]\x1b]0;title\x07\u202e") > 2
    assert said.replace("\n", "").isprintable()


def test_a_folder_is_compared_with_its_full_size_network(folder: Path, tmp_path: Path) -> None:
    result = measured(tmp_path, str(folder))
    assert networks_of(result) == ["dense", "compact"]
    assert result.rows[1].cost.params == sum(parameter.numel() for parameter in lrpet.load(folder).parameters())
    assert result.rows[1].cost_ratio < 1


def test_a_run(finished: Path, tmp_path: Path) -> None:
    json = tmp_path / "bench.json"
    assert main(["bench", str(finished), "--seconds", "0.001", "--json", str(json)]) == 0
    dense, compact = Bench.load(json).rows
    plan = lrpet.Plan.from_json((finished / "plan.json").read_text())
    assert (dense.cost.macs, compact.cost.macs) == (plan.macs_dense, plan.macs)  # at the size of the run's images


def test_networks_against_each_other(folder: Path, tmp_path: Path) -> None:
    result = measured(tmp_path, "resnet8", str(folder), "resnet20")
    assert networks_of(result) == ["resnet8", str(folder), "resnet20"]
    assert result.rows[1].cost_ratio < 1 < result.rows[2].cost_ratio
    assert networks_of(measured(tmp_path, "resnet8")) == ["resnet8"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["resnet8", "resnet20", "--macs", "0.5"],
            "--macs is for the name of one network, whose compact form it makes",
        ),
        (
            ["resnet8", "--multiple-of", "8"],
            "--multiple-of bounds the ranks of a budget: give one, such as --macs 0.45",
        ),
        (["resnet8", "resnet8"], "a network is named twice"),
        (["resnet9"], "there is no model 'resnet9'"),
        (["vgg16_bn", "--image-size", "7"], "vgg16_bn does not run on images of shape 1×3×7×7"),
        (["resnet8", "--json", "nowhere/bench.json"], "there is no folder nowhere for bench.json"),
        (["resnet8", "--plot", "bench.odt"], "bench.odt must end with the name of an image format"),
        (["resnet8", "--dtype", "bfloat16", "--runtimes", "onnxruntime"], "ONNX Runtime is run in float32 on the CPU"),
        (["resnet8", "--cuda-graphs"], "cuda_graphs needs device='cuda'"),
    ],
)
def test_what_is_refused(refused: Callable[[list[str], str], None], arguments: list[str], message: str) -> None:
    refused(["bench", *arguments], message)


def test_a_gpu_that_is_not_there(refused: Callable[[list[str], str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused(["bench", "resnet8", "--device", "cuda"], "this machine has no GPU that torch sees")
