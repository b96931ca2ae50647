"""Files that somebody wrote to do harm: all are refused with one message. No code of theirs runs, and no memory fills."""

from __future__ import annotations

import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.faults import hostile_data, hostile_files
from benchmarks.faults.damaged_files import HANGS, ended_well
from benchmarks.faults.data_specimens import SPECIMENS as OF_DATA
from benchmarks.faults.forks import Limits, forked, spread
from benchmarks.faults.hostile_case import Hostile, replaced_bytes
from benchmarks.faults.hostile_pickles import pickles
from benchmarks.faults.specimen import Specimen
from benchmarks.faults.specimens import SPECIMENS
from benchmarks.faults.verdicts import Verdict, summed

KINDS = {kind.name: kind for kind in (*SPECIMENS, *OF_DATA)}


def loop(limits: Limits) -> dict[str, Any]:
    """Read all hostile files; with a count, so many of them, evenly chosen."""
    with tempfile.TemporaryDirectory(prefix="hostile-") as temporary:
        place = Path(temporary)
        trap = place / "trap"
        cases = [
            *hostile_files.cases(trap),
            *hostile_data.cases(trap),
            *(_pickle(name, content) for name, content in pickles(trap)),
        ]
        if limits.count is not None:
            cases = [cases[i * len(cases) // limits.count] for i in range(min(limits.count, len(cases)))]
        for name in {case.kind for case in cases}:
            (place / name).mkdir()
            made = forked(lambda name=name: KINDS[name].make(place / name))  # type: ignore[misc]
            if made.status != 0:
                raise RuntimeError(f"{name} cannot even be made: {made.said}")

        def judge(case: Hostile, number: int) -> dict[str, Any]:
            folder = place / str(number)
            shutil.copytree(place / case.kind, folder)
            case.forge(folder)
            verdict = _judged(case, KINDS[case.kind], folder, trap)
            shutil.rmtree(folder)
            return verdict.plain()

        verdicts = spread(cases, judge, limits)
    return summed(verdicts, planned=len(cases))


def _pickle(name: str, content: bytes) -> Hostile:
    return Hostile("CIFAR-10, python", f"pickle: {name}", partial(replaced_bytes, name="data_batch_1", content=content))


def _judged(case: Hostile, kind: Specimen, folder: Path, trap: Path) -> Verdict:
    outcome = forked(lambda: kind.read(folder), seconds=HANGS, limited=True)
    wrong, notes = ended_well(outcome)
    if trap.exists():
        wrong.append("its code ran")
        trap.unlink()
    if not wrong and notes != ["refused"] and not case.harmless:
        wrong.append("was not refused")
    return Verdict(f"{case.kind}: {case.name}", wrong, 1, notes)
