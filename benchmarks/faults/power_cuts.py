"""Power cuts: what was not on the disk is gone, and a run goes on from its last checkpoint.

Cuts are real where an ext4 file system can be mounted: it is told to stop at once, without writing what waits. They are
simulated everywhere, by what a journalling file system may leave.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.faults import mounts
from benchmarks.faults.forks import Limits, Outcome, forked, spread
from benchmarks.faults.journal import Journal
from benchmarks.faults.runs import config_of, differing, left_by, start, train
from benchmarks.faults.verdicts import Verdict, summed, undone
from benchmarks.faults.watching import Seen, watch
from lrpet.train.checkpoints import Checkpoints, Progress
from lrpet.train.config import Config
from lrpet.train.state import TrainingState

#: Cuts of each kind.
CUTS = 60
NAME = "epochs"
#: How the ext4 is mounted, in turn. The second has none of the safety nets for programs that do not sync.
OPTIONS = ("", "data=writeback,noauto_da_alloc", "commit=1", "nodelalloc")
#: The file, beside the folder that is cut, that says how many epochs were saved.
SAVED = "saved-epochs"

Cut = Callable[[int, int, Path, dict[str, Any]], list[str]]
"""What trains until an operation, cuts there, goes on, and returns what is wrong; of number, place and what is to be left."""


def loop(limits: Limits) -> dict[str, Any]:
    """Cut the power of trainings before operations on files, which are spread evenly over all that they do."""
    count = CUTS if limits.count is None else limits.count
    with tempfile.TemporaryDirectory(prefix="cuts-") as temporary:
        place = Path(temporary)
        operations, left = _undisturbed(place / "whole")
        moments = [(2 * i + 1) * operations // (2 * count) for i in range(count)]

        def judged(cut: Cut) -> dict[str, Any]:
            def judge(moment: int, number: int) -> dict[str, Any]:
                below = place / f"{cut.__name__}-{number}"
                below.mkdir()
                wrong = cut(moment, number, below, left)
                shutil.rmtree(below)
                return Verdict(f"before operation {moment}, cut {number}", wrong).plain()

            return summed(spread(moments, judge, limits), planned=len(moments))

        kinds = {"simulated": judged(_simulated)}
        if (why := mounts.refusal(ext4=True)) is None:
            mounts.make_ext4(place / "empty")
            kinds["ext4"] = judged(_on_ext4)
        else:
            kinds["ext4"] = undone(why)
    passed = all(kind["passed"] for kind in kinds.values() if kind["done"])
    faults = sum(kind["faults"] for kind in kinds.values() if kind["done"])
    return {"done": True, "faults": faults, "passed": passed, "operations": operations, **kinds}


def _undisturbed(folder: Path) -> tuple[int, dict[str, Any]]:
    """Return how many operations on files a training has, and what it comes to."""

    def work() -> int:
        events: list[str] = []
        watch(folder, lambda event, path: events.append(event))
        train(config_of(NAME, folder / "run"))
        return len(events)

    folder.mkdir()
    outcome = forked(work)
    if outcome.result is None:
        raise RuntimeError(f"{NAME} does not even run undisturbed: {outcome.said}")
    return outcome.result, left_by(folder / "run")


def _simulated(moment: int, number: int, place: Path, left: dict[str, Any]) -> list[str]:
    """Train in a folder whose journal is kept, and go on with what a cut leaves of it."""
    folder, after = place / "before", place / "after"
    journal = Journal(folder)
    folder.mkdir()

    def cut() -> None:
        journal.leave(after, late=number % 2 == 0)

    outcome = _until(moment, folder, cut, journal.note)
    return _judged(outcome, config_of(NAME, after / "run"), place, left)


def _on_ext4(moment: int, number: int, place: Path, left: dict[str, Any]) -> list[str]:
    """Train on an ext4 file system that stops, and go on once it is mounted again."""
    image, disk, options = place / "image", place / "disk", OPTIONS[number % len(OPTIONS)]
    shutil.copyfile(place.parent / "empty", image)
    with mounts.mounted(image, disk, options):
        outcome = _until(moment, disk, lambda: mounts.cut_power(disk), lambda event, path: None)
    with mounts.mounted(image, disk, options):
        return _judged(outcome, config_of(NAME, disk / "run"), place, left)


def _until(moment: int, folder: Path, cut: Callable[[], None], seen: Seen) -> Outcome:
    """Train until the operation of this number, then cut and die; the epochs that were saved are noted beside the folder."""
    operations = itertools.count()

    def told(event: str, path: Path) -> None:
        if next(operations) == moment:
            cut()
            os.kill(os.getpid(), signal.SIGKILL)
        seen(event, path)

    def work() -> None:
        save = Checkpoints.save

        def saved(self: Checkpoints, state: TrainingState, progress: Progress) -> None:
            save(self, state, progress)
            (folder.parent / SAVED).write_text(str(progress.epoch), encoding="ascii")

        Checkpoints.save = saved  # type: ignore[method-assign]  # in this fork alone
        watch(folder, told)
        train(config_of(NAME, folder / "run"))

    return forked(work)


def _judged(outcome: Outcome, config: Config, place: Path, left: dict[str, Any]) -> list[str]:
    if outcome.signal != signal.SIGKILL:
        return [f"no cut, but status {outcome.status}: {outcome.said[-500:]}"]
    saved = int((place / SAVED).read_text("ascii")) if (place / SAVED).exists() else 0
    here = [path.name for path in (config.folder / "checkpoints").glob("epoch-*")]
    wrong = [] if not saved or f"epoch-{saved:05d}" in here else [f"lost the checkpoint of epoch {saved}"]
    outcome = start(config, resume=True).wait()
    wrong += [line for line in outcome.said.splitlines() if "damaged" in line]
    if outcome.status != 0:
        return [*wrong, f"cannot be resumed, status {outcome.status}: {outcome.said[-500:]}"]
    return wrong + [f"another {what} than undisturbed" for what in differing(config.folder, left)]
