"""A run that is told to stop goes on in the middle of an epoch, to the same bits."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

import loops
from lrpet.cli import main
from lrpet.train.preemption import PreemptedError
from processes import results
from runs import lines, quick, run, told_at, weights

pytestmark = pytest.mark.usefixtures("untimed")

CHANGES: dict[str, Any] = {"epochs": 2, "every": 3, "start": 0, "mixup": 0.2}


def steps(folder: Path) -> list[Any]:
    return [(line["kind"], line["step"], line.get("train_accuracy")) for line in lines(folder)]


def assert_one_run(mine: Path, other: Path) -> None:
    assert steps(mine) == steps(other)
    expected = weights(other)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(mine).items())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_run_goes_on_where_it_was_told_to_stop(tmp_path: Path, number: signal.Signals) -> None:
    before = signal.getsignal(number)
    whole, cut = quick(tmp_path / "whole", **CHANGES), quick(tmp_path / "cut", **CHANGES)
    run(whole)
    with (
        told_at(14, number),
        pytest.raises(PreemptedError, match=rf"told to stop \({number.name}\) after 1 epochs and 4 steps"),
    ):
        run(cut)
    assert signal.getsignal(number) == before
    assert lines(cut.folder)[-1]["step"] <= 14
    run(cut, resume=True)
    assert_one_run(cut.folder, whole.folder)


def test_the_command_line_ends_with_its_own_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "--model", "resnet20", "--data", "digits", "--keep", "0.5", "--epochs", "1", "--device", "cpu"]
    with told_at(3, signal.SIGTERM):
        assert main([*words, "--output", str(tmp_path / "run")]) == 75
    text = capsys.readouterr().err
    assert f"Go on with: lrpet train --resume --output {tmp_path / 'run'}" in text
    assert "Traceback" not in text
    assert main(["train", "--resume", "--output", str(tmp_path / "run")]) == 0


@pytest.mark.parametrize(("batch_size", "told", "stops"), [(128, 7, (1, 0)), (64, 7, (0, 10))])
def test_several_processes_stop_together(tmp_path: Path, batch_size: int, told: int, stops: tuple[int, int]) -> None:
    whole, cut = (quick(tmp_path / name, **CHANGES, batch_size=batch_size) for name in ("whole", "cut"))
    jobs = [(whole, 0), (cut, told), (cut, 0)]
    said = [
        results(2, loops.stopped, tmp_path / str(i), json.dumps(config.model_dump(mode="json")), step, joined=False)
        for i, (config, step) in enumerate(jobs)
    ]
    assert said[0] == said[2] == ["", ""]
    assert all(f"after {stops[0]} epochs and {stops[1]} steps" in message for message in said[1])
    assert "told to stop (another process was)" in said[1][0]
    assert "told to stop (SIGTERM)" in said[1][1]
    assert_one_run(cut.folder, whole.folder)
