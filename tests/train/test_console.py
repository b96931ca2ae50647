"""What a person sees while a network trains."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
import torch

import lrpet
from lrpet import Projector
from lrpet.models import create
from lrpet.train.config import make_config
from lrpet.train.console import Console
from lrpet.train.measure import Running
from lrpet.train.run import train
from lrpet.train.task import Task
from runs import quick, run

BATCHES = [(torch.zeros(0), torch.zeros(0))] * 3


def epoch(shown: Console, folder: Path, *, epoch: int = 0, done: int = 0) -> Iterator[None]:
    """Go through the batches of an epoch on the display."""
    config = quick(folder, batch_size=100, model="resnet8")
    task = Task.of(config)
    running, projector = Running(torch.device("cpu")), Projector(task.network, task.plan, total_steps=9, start=3)
    with shown.run(config, task.plan):
        for _ in shown.epoch(epoch, BATCHES, running, projector, counted=100, lr=lambda: 0.125, done=done):
            yield


def test_the_display_says_how_many_images_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that goes on by two seconds from batch to batch; those before a checkpoint do not count."""
    ticks = count(step=2)
    monkeypatch.setattr("lrpet.train.console.time.perf_counter", lambda: float(next(ticks)))
    monkeypatch.setattr("lrpet.train.console.LINE_SECONDS", 1.0)
    shown, seen = Console(quiet=True), []
    for _ in epoch(shown, tmp_path / "run", done=5):
        assert shown.display is not None
        seen.append(shown.display.figures.get("speed"))
    assert seen == [None, "50 images/s", "50 images/s"]


def test_the_display_labels_every_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lrpet.train.console.REFRESH_SECONDS", -1)
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "200"}.items():
        monkeypatch.setenv(name, value)
    for colourless in (False, True):
        if colourless:
            monkeypatch.setenv("NO_COLOR", "1")
        else:
            monkeypatch.delenv("NO_COLOR", raising=False)
        shown = Console()
        for _ in epoch(shown, tmp_path / "run", epoch=1):
            assert shown.display is not None
            shown.display.refresh()
        out = capsys.readouterr().out
        assert ("\x1b[35m" in out or "\x1b[36m" in out or "\x1b[38;" in out) != colourless
        plain = out.replace("\xa0", " ")
        for said in ("epoch 2/2", "/6", "left", "accuracy", "learning rate", "full until step 3", "images/s", "loss"):
            assert said in plain


def test_without_a_terminal_a_long_epoch_says_each_minute_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ticks = count(step=40)
    monkeypatch.setattr("lrpet.train.console.time.perf_counter", lambda: float(next(ticks)))
    for _ in epoch(Console(), tmp_path / "run", epoch=1):
        pass
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "  step " in line)
    assert line.startswith("   2/2  step 2 of 3; loss ")
    for said in (", accuracy ", ", learning rate 0.125, ranks full until step 3, speed 2 images/s, projecting "):
        assert said in line


@pytest.mark.usefixtures("untimed")
def test_without_a_terminal_there_are_plain_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(quick(tmp_path / "run", model="resnet8"))
    out = capsys.readouterr().out
    assert "\x1b" not in out
    first, second = (line for line in out.splitlines() if "  train loss" in line)
    assert first.startswith("   1/2  train loss ")
    for said in ("; validation loss ", ", accuracy ", "; lr ", "ranks ", ", energy pruned ", " images/s, "):
        assert said in second
    assert "test accuracy" in out


@pytest.mark.usefixtures("untimed")
def test_a_quiet_run_prints_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(quick(tmp_path / "run", model="resnet8", epochs=1))
    assert capsys.readouterr().out == ""


def test_names_that_look_like_markup_are_shown_as_they_are(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = make_config({"keep": 0.5, "output": tmp_path / "[/bold] [red]\x1b[2J"})
    model = create("resnet8")
    with Console().run(config, lrpet.plan(model, torch.zeros(1, 3, 8, 8), keep=0.5)):
        pass
    said = capsys.readouterr().out
    assert "[red]\\x1b[2J" in said.replace("\n", "")
    assert "\x1b" not in said
