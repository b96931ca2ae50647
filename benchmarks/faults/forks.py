"""Work in processes of its own, which begin with everything imported: forks of this one, watched and limited.

A fork of a process that has no threads has all that was imported, and takes milliseconds where an interpreter takes seconds.
"""

from __future__ import annotations

import json
import os
import random
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, TypeVar

Case = TypeVar("Case")

#: The exit status of a fork whose work raised an exception that nobody caught.
RAISED = 70
#: What the address space of a fork may grow by, in bytes, where its work is limited.
ROOM = 4 * 2**30


@dataclass(frozen=True)
class Outcome:
    """How a fork ended."""

    status: int | None
    """Its exit status; None if a signal ended it."""
    signal: int | None
    """The signal that ended it; None if none did."""
    late: bool
    """Whether it was killed because its time was over."""
    said: str
    """What it wrote to stdout and stderr."""
    result: Any
    """What its work returned; None if it did not come to that."""
    seconds: float
    grown: int
    """Bytes of memory at its peak, beyond what it began with."""


class Fork:
    """A process that calls `work`, whose value has to be what JSON can hold; SystemExit gives the exit status.

    With `limited`, its address space may grow by 4 GiB only, so that a greedy one cannot harm the machine.
    """

    def __init__(self, work: Callable[[], Any], *, limited: bool = False) -> None:
        self._said, self._result = os.memfd_create("said"), os.memfd_create("result")
        self._began = time.monotonic()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            self._work(work, limited=limited)

    def _work(self, work: Callable[[], Any], *, limited: bool) -> NoReturn:
        status = RAISED
        try:
            os.dup2(self._said, 1)
            os.dup2(self._said, 2)
            sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115  # the fork's own, to its end
            sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
            if limited:
                most = _pages(0) + ROOM
                resource.setrlimit(resource.RLIMIT_AS, (most, most))
            os.write(self._result, f"{_pages(1)}\n".encode())
            os.write(self._result, json.dumps(work()).encode())
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else RAISED
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def wait(self, seconds: float = 120.0) -> Outcome:
        """Wait for its end; kill it after so many seconds."""
        try:
            handle = os.pidfd_open(self.pid)
            late = not select.select([handle], [], [], max(0.0, seconds))[0]
            os.close(handle)
            if late:
                os.kill(self.pid, signal.SIGKILL)
            _, status, usage = os.wait4(self.pid, 0)
            code = os.waitstatus_to_exitcode(status)
            resident, _, written = _content(self._result).partition(b"\n")
            return Outcome(
                status=code if code >= 0 else None,
                signal=-code if code < 0 else None,
                late=late and code == -signal.SIGKILL,
                said=_content(self._said).decode("utf-8", "replace"),
                result=json.loads(written) if written else None,
                seconds=time.monotonic() - self._began,
                grown=max(0, usage.ru_maxrss * 1024 - int(resident or 2**62)),
            )
        finally:
            os.close(self._said)
            os.close(self._result)


def forked(work: Callable[[], Any], *, seconds: float = 120.0, limited: bool = False) -> Outcome:
    """Call `work` in a fork as `Fork` does, and wait for its end; it is killed after so many seconds."""
    return Fork(work, limited=limited).wait(seconds)


@dataclass
class Limits:
    """How much a loop may do."""

    seed: int = 0
    seconds: float = 600.0
    """After so long no further case is begun."""
    count: int | None = None
    """Cases to try; None for the loop's usual number."""
    workers: int = 2
    """Forks that work at once."""
    began: float = field(default_factory=time.monotonic)

    @property
    def over(self) -> bool:
        """Whether no further case is to be begun."""
        return time.monotonic() - self.began > self.seconds

    def random(self, *place: object) -> random.Random:
        """Return random numbers of their own for a place, which do not depend on what else draws."""
        return random.Random(":".join(map(str, (self.seed, *place))))


def spread(cases: Sequence[Case], judge: Callable[[Case, int], Any], limits: Limits) -> list[Any]:
    """Judge cases in several forks at once, and return the verdicts, in order, of those that were begun in time.

    `judge` gets a case and its number, and returns what JSON can hold. Raises RuntimeError if it raises.
    """
    workers = max(1, min(limits.workers, len(cases)))

    def some(first: int) -> list[tuple[int, Any]]:
        verdicts = []
        for number in range(first, len(cases), workers):
            if limits.over:
                break
            verdicts.append((number, judge(cases[number], number)))
        return verdicts

    forks = [Fork(lambda first=first: some(first)) for first in range(workers)]  # type: ignore[misc]
    verdicts: list[tuple[int, Any]] = []
    for outcome in [fork.wait(limits.seconds + 600) for fork in forks]:
        if outcome.result is None:
            raise RuntimeError(f"a fork that judges failed: {outcome.said[-2000:]}")
        verdicts += outcome.result
    return [verdict for _, verdict in sorted(verdicts, key=lambda each: each[0])]


def _content(descriptor: int) -> bytes:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


def _pages(column: int) -> int:
    """Return a column of /proc/self/statm in bytes: 0 is the address space, 1 what is in memory."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[column]) * resource.getpagesize()
