"""The seconds of projections, on a CPU, and as events of a GPU tell them."""

from __future__ import annotations

import time
from typing import ClassVar

import pytest
import torch

from lrpet.projecting.stopwatch import Stopwatch

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_what_is_stopped_counts() -> None:
    watch = Stopwatch()
    watch.started(CPU)
    assert watch.seconds == 0
    stop = watch.started(CPU)
    time.sleep(0.01)
    stop()
    assert 0.01 <= watch.seconds < 1
    watch.seconds = 5.0
    assert watch.seconds == 5


def test_on_a_gpu_events_count_once_they_are_through(monkeypatch: pytest.MonkeyPatch) -> None:
    class Event:
        made: ClassVar[list[Event]] = []
        through = False

        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing
            self.made.append(self)

        def record(self, stream: str) -> None:
            assert stream == "stream of cuda"

        def query(self) -> bool:
            return self.through

        def elapsed_time(self, end: Event) -> float:
            return 500.0 * (self.made.index(end) - self.made.index(self))

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    watch = Stopwatch()
    watch.started(GPU)()
    watch.started(GPU)()
    assert watch.seconds == 0
    Event.made[1].through = True
    assert watch.seconds == 0.5
    Event.made[3].through = True
    assert watch.seconds == 1
    assert watch.seconds == 1
    watch.started(GPU)()
    watch.seconds = 2
    Event.made[5].through = True
    assert watch.seconds == 2
