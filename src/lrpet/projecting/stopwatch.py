"""How long projections take."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import torch


class Stopwatch:
    """Sums up the seconds from start to stop: by the wall, or on a GPU from the first of its kernels to the last.

    The host may wait in between for kernels that were launched before. That wait does not count on a GPU.
    """

    def __init__(self) -> None:
        self._counted = 0.0
        self._running: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the events, which cannot be copied."""
        return {"_counted": self.seconds, "_running": deque()}

    @property
    def seconds(self) -> float:
        """Return the seconds so far, without what a GPU has not finished yet."""
        while self._running and self._running[0][1].query():  # type: ignore[no-untyped-call]
            begin, end = self._running.popleft()
            self._counted += begin.elapsed_time(end) / 1e3
        return self._counted

    @seconds.setter
    def seconds(self, seconds: float) -> None:
        self._running.clear()
        self._counted = seconds

    def started(self, device: torch.device) -> Callable[[], None]:
        """Start, and return what stops. Nothing counts where that is not called."""
        if device.type != "cuda":
            return partial(self._stopped, time.perf_counter())
        begin = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        begin.record(torch.cuda.current_stream(device))
        return partial(self._stopped_on_gpu, begin, device)

    def _stopped(self, begin: float) -> None:
        self._counted += time.perf_counter() - begin

    def _stopped_on_gpu(self, begin: torch.cuda.Event, device: torch.device) -> None:
        end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        end.record(torch.cuda.current_stream(device))
        self._running.append((begin, end))
        _ = self.seconds  # so that few are running
