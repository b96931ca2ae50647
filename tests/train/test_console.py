"""What a person sees while a network trains."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest
import torch
from runs import quick

import lrpet
from lrpet import Projector
from lrpet.models import create
from lrpet.train.config import make_config
from lrpet.train.console import Console
from lrpet.train.measure import Running
from lrpet.train.task import Task


def test_the_bar_says_how_many_images_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that goes on by two seconds from batch to batch; those before a checkpoint do not count."""
    ticks = count(step=2)
    monkeypatch.setattr("lrpet.train.console.time.perf_counter", lambda: float(next(ticks)))
    config = quick(tmp_path / "run", batch_size=100, model="resnet8")
    task, shown = Task.of(config), Console(quiet=True)
    running, projector = Running(torch.device("cpu")), Projector(task.network, task.plan, total_steps=9)
    batches = [(torch.zeros(0), torch.zeros(0))] * 3
    with shown.run(config, task.plan):
        seen = []
        for _ in shown.epoch(0, batches, running, projector, counted=100, done=5):
            assert shown._progress is not None
            seen.append(shown._progress.tasks[0].fields["figures"].partition("images/s")[0].split()[-1:])
    assert seen == [[], ["50"], ["50"]]


def test_names_that_look_like_markup_are_shown_as_they_are(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = make_config({"keep": 0.5, "output": tmp_path / "[/bold] [red]\x1b[2J"})
    model = create("resnet8")
    with Console().run(config, lrpet.plan(model, torch.zeros(1, 3, 8, 8), keep=0.5)):
        pass
    said = capsys.readouterr().out
    assert "[red]\\x1b[2J" in said.replace("\n", "")
    assert "\x1b" not in said
