"""Jobs that are told to stop: a signal becomes a whole checkpoint and an exit status of its own."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

import torch

from lrpet.train.processes import Processes

#: The signals that clusters send before they take a machine away.
SIGNALS = ("SIGTERM", "SIGUSR1")
#: Several processes ask each other after every so many steps of an epoch, and at its end, whether one was told to stop.
ASK_EVERY = 10


class PreemptedError(Exception):
    """A training was told to stop, and has written a checkpoint."""

    exit_status = 75
    """That of the command line: EX_TEMPFAIL of sysexits.h, "try again later"."""


class Preemption:
    """Notes, inside its block, that this process was told to stop. In other threads than the main one it notes nothing."""

    def __init__(self, processes: Processes, device: torch.device) -> None:
        self.processes, self.device = processes, device
        self.told: str | None = None
        """The signal that came."""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Preemption:
        if threading.current_thread() is threading.main_thread():
            numbers = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
            self._before = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def due(self, step: int) -> bool:
        """Tell, after this step of an epoch, whether all processes are to stop; 0 stands for the end of the epoch."""
        if self.processes.count == 1:
            return self.told is not None
        if step % ASK_EVERY:
            return False
        return bool(self.processes.total(torch.tensor(float(self.told is not None), device=self.device)) > 0)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.told = signal.Signals(number).name
