"""Disks that are full: with hardly any room up to enough of it. There is one message, and with more room it goes on."""

from __future__ import annotations

import resource
import shutil
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.faults import mounts
from benchmarks.faults.forks import Limits, Outcome, spread
from benchmarks.faults.kills import uninterrupted
from benchmarks.faults.runs import config_of, differing, leftovers, start
from benchmarks.faults.verdicts import Verdict, summed
from lrpet.train.config import Config

#: Sizes of disks to try, evenly up to more than a run needs.
SIZES = 60
PAGE = resource.getpagesize()
NAMES = ("epochs", "tensorboard", "text")
#: Bytes that are room enough.
ENOUGH = 256 * 2**20


def loop(limits: Limits) -> dict[str, Any]:
    """Train on disks of every size; where mounting is not allowed, with files of at most every size."""
    why = mounts.refusal(ext4=False)
    with tempfile.TemporaryDirectory(prefix="full-") as temporary:
        place = Path(temporary)
        count = SIZES if limits.count is None else limits.count
        names = NAMES[:count]
        whole = {name: uninterrupted(name, place) for name in names}
        sizes = {name: _sizes(place / f"whole-{name}") for name in names}
        needed = {name: max(each) * 1.1 if why else sum(each) * 1.5 for name, each in sizes.items()}
        cases = [(names[i % len(names)], (i + 1) / count) for i in range(count)]

        def judge(case: tuple[str, float], number: int) -> dict[str, Any]:
            name, part = case
            size = max(1, round(part * needed[name] / PAGE)) * PAGE
            config = config_of(name, place / str(number) / "disk" / "run")
            config.folder.parent.parent.mkdir()
            filled = _with_small_files if why else _on_a_small_disk
            wrong, full = filled(config, size, whole[name]["left"])
            shutil.rmtree(place / str(number))
            return Verdict(f"{name}, {size:,} bytes", wrong, int(full), ["had room enough"] if not full else []).plain()

        verdicts = spread(cases, judge, limits)
    how = "a small tmpfs" if why is None else f"a limit on the size of files, RLIMIT_FSIZE, since {why}"
    return summed(verdicts, planned=len(cases), how=how)


def _on_a_small_disk(config: Config, size: int, left: dict[str, Any]) -> tuple[list[str], bool]:
    """Return what is wrong, and whether the disk was full."""
    disk = config.folder.parent
    with mounts.in_memory(disk, size=size):
        outcome = start(config).wait()
        mounts.enlarge(disk, size=ENOUGH)
        return _judged(outcome, config, left), outcome.status != 0


def _with_small_files(config: Config, size: int, left: dict[str, Any]) -> tuple[list[str], bool]:
    """Return what is wrong, and whether a file was as large as it may be."""
    config.folder.parent.mkdir()
    outcome = start(config, before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))).wait()
    return _judged(outcome, config, left), outcome.status != 0


def _judged(outcome: Outcome, config: Config, left: dict[str, Any]) -> list[str]:
    wrong = list[str]()
    if outcome.status != 0:
        wrong += one_message(outcome)
        wrong += [f"left a temporary file {name}" for name in leftovers(config.folder)]
        outcome = start(config, resume=True).wait()
    if outcome.status != 0:
        return [*wrong, f"cannot go on with more room, status {outcome.status}: {outcome.said[-500:]}"]
    return wrong + [f"another {what} than undisturbed" for what in differing(config.folder, left)]


def one_message(outcome: Outcome) -> list[str]:
    """Return what is wrong with the end of a command that is to end with one message, status 2, and no traceback."""
    lines = outcome.said.splitlines()
    begins = [line for line in lines if line.startswith("lrpet: ")]
    wrong = (
        [] if outcome.status == 2 else [f"status {outcome.status}, signal {outcome.signal}, {'late' * outcome.late}"]
    )
    wrong += [] if len(begins) == 1 and lines[0] == begins[0] else ["not one message alone"]
    wrong += ["a traceback"] if "Traceback" in outcome.said else []
    return [*wrong, outcome.said[-800:]] if wrong else []


def _sizes(folder: Path) -> list[int]:
    return [-(-path.stat().st_size // PAGE) * PAGE for path in folder.rglob("*")]
