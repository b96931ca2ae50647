"""`lrpet plan`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import lrpet
from lrpet.cli import main
from lrpet.train.weights import load_trained


def planned(capsys: pytest.CaptureFixture[str], *arguments: str) -> lrpet.Plan:
    assert main(["plan", *arguments, "--json"]) == 0
    return lrpet.Plan.from_json(capsys.readouterr().out)


def test_the_known_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "resnet56", "--keep", "0.43"]) == 0
    assert "125.49 M → 56.06 M multiply-adds" in capsys.readouterr().out


def test_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    plan = planned(capsys, "resnet20", "--macs", "0.5")
    assert plan.macs <= 0.5 * plan.macs_dense


def test_layers_by_pattern(capsys: pytest.CaptureFixture[str]) -> None:
    limits = ["--include", "layer2.*", "layer3.*", "--exclude", "*.conv2", "--multiple-of", "4", "--max-rank", "12"]
    plan = planned(capsys, "resnet20", "--keep", "0.5", *limits, "--overrides", "{layer3.0.conv1: 5}")
    assert set(plan.ranks) == {f"layer{i}.{j}.conv1" for i in (2, 3) for j in range(3)}
    assert plan.ranks.pop("layer3.0.conv1") == 5
    assert set(plan.ranks.values()) <= {4, 8, 12, 5}


def test_the_smallest_saving(capsys: pytest.CaptureFixture[str]) -> None:
    some, none = (
        planned(capsys, "resnet20", "--macs", "0.7", "--unfolding", "channel", "--min-saving", saving)
        for saving in ("0.03", "0")
    )
    assert set(some.ranks) < set(none.ranks)


@pytest.mark.parametrize("width", [60, 100])
def test_a_table_is_as_wide_as_the_terminal(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.get_terminal_size", lambda *_, **__: os.terminal_size((width, 24)))
    assert main(["plan", "resnet20", "--keep", "0.43"]) == 0
    piped = capsys.readouterr().out.split("\n\n")[0].splitlines()
    assert max(map(len, piped)) > 100  # whole where nobody looks at it in a terminal
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert main(["plan", "resnet20", "--keep", "0.43"]) == 0
    shown = capsys.readouterr().out.split("\n\n")[0].splitlines()
    assert max(map(len, shown)) <= width
    assert len(shown) == len(piped)


def test_by_trained_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = tmp_path / "weights.safetensors"
    torch.manual_seed(0)
    network = lrpet.models.create("resnet20", in_channels=1)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() == 4:  # spectra that differ from layer to layer
                parameter[: len(parameter) // 2] *= 10 * torch.rand(())
    from safetensors.torch import save_file

    save_file(network.state_dict(), weights)
    line = ["resnet20", "--macs", "0.5", "--in-channels", "1", "--weights", str(weights)]
    plans: dict[str, Any] = {
        how: planned(capsys, *line, "--allocate", how) for how in ("uniform", "energy", "threshold")
    }
    fresh = lrpet.models.create("resnet20", in_channels=1)
    load_trained(weights, fresh)
    for how, plan in plans.items():
        assert plan.ranks == lrpet.plan(fresh, torch.zeros(1, 1, 32, 32), macs=0.5, allocate=how).ranks  # type: ignore[arg-type]
    assert len({str(plan.ranks) for plan in plans.values()}) == 3
    assert planned(capsys, *line).ranks == plans["uniform"].ranks  # "auto": nothing is trained here


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet21", "--keep", "0.5"], "there is no model 'resnet21'"),
        (["resnet20"], "one or more budgets of macs, params, bytes and latency"),
        (["resnet20", "--keep", "0.5", "--macs", "0.5"], "keep and macs"),
        (["resnet20", "--macs", "0.0001"], "cannot be met"),
        (["resnet20", "--macs", "0.5", "--allocate", "energy"], "by --weights or --pretrained"),
        (["resnet20", "--macs", "0.5", "--weights", "nowhere"], "weights=nowhere is no file"),
        (["resnet20", "--macs", "0.5", "--pretrained"], "no pretrained weights for 'resnet20'"),
        (["resnet20", "--keep", "0.5", "--exclude", "layer9.*"], "layer9"),
        (["resnet20", "--latency", "0.5", "--latency-table", "none.json"], "none.json"),
        (
            ["vgg16_bn", "--keep", "0.5", "--image-size", "7"],
            "vgg16_bn does not run on images of shape 1×3×7×7 (batch, channels, height, width): give another --image-size",
        ),
    ],
)
def test_bad_input_is_one_clear_message(
    arguments: list[str], message: str, refused: Callable[[list[str], str], None]
) -> None:
    refused(["plan", *arguments], message)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--min-rank", "0"], "argument --min-rank: 0 must be at least 1"),
        (["--keep", "1.5"], "argument --keep: 1.5 must be above 0 and at most 1"),
        (["--max-rank", "many"], "argument --max-rank: 'many' must be a whole number"),
        (["--allocate", "sensitivity"], "argument --allocate: 'sensitivity' must be 'auto' or 'uniform'"),
    ],
)
def test_options_are_checked_by_what_is_declared(
    option: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["plan", "resnet20", *option])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
