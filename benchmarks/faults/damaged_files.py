"""Damaged files of every format: each is read right, or refused with one message; quickly, and in little memory."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from benchmarks.faults import data_specimens, specimens, tool_specimens
from benchmarks.faults.damage import damaged
from benchmarks.faults.forks import Limits, Outcome, forked, spread
from benchmarks.faults.specimen import Specimen
from benchmarks.faults.verdicts import Verdict, summed
from lrpet.compact.weights import digest

#: Files to damage.
FILES = 3000
#: Seconds after which reading has hung.
HANGS = 30.0
#: Bytes of memory that reading may take beyond what there was.
MEMORY = 2**30
ALL = (*specimens.SPECIMENS, *data_specimens.SPECIMENS, *tool_specimens.SPECIMENS)


def loop(limits: Limits, *, kinds: tuple[Specimen, ...] = ALL) -> dict[str, Any]:
    """Damage files of every kind in turn, and read them."""
    count = FILES if limits.count is None else limits.count
    with tempfile.TemporaryDirectory(prefix="damaged-") as temporary:
        place = Path(temporary)
        drawn = limits.random("kinds").choices(kinds, [kind.weight for kind in kinds], k=count)
        whole = {kind.name: _whole(kind, place / kind.name) for kind in kinds if kind in drawn}

        def judge(kind: Specimen, number: int) -> dict[str, Any]:
            return _judged(kind, number, place, whole[kind.name], limits).plain()

        verdicts = spread(drawn, judge, limits)
    tried = Counter(verdict["case"].partition(":")[0] for verdict in verdicts)
    return summed(verdicts, planned=count, files=dict(sorted(tried.items())))


def _whole(kind: Specimen, folder: Path) -> set[str | None]:
    """Make the files of a kind, and return the digests of what may be read from them: whole, or the checkpoint before."""
    folder.mkdir()
    made = forked(lambda: kind.make(folder))
    if made.status != 0:
        raise RuntimeError(f"{kind.name} cannot even be made: {made.said}")
    found = {_read(kind, folder)}
    for latest in sorted(folder.glob("run/checkpoints/*"))[-1:]:
        latest.rename(folder / "latest")
        found.add(_read(kind, folder))
        (folder / "latest").rename(latest)
    return found


def _read(kind: Specimen, folder: Path) -> str | None:
    """Return the digest of what is read from whole files."""
    copied = folder.with_name(f"{folder.name} read")
    shutil.copytree(folder, copied)
    outcome = forked(lambda: kind.read(copied))
    shutil.rmtree(copied)
    if outcome.result is None or outcome.result[0] != 0:
        raise RuntimeError(f"{kind.name} cannot even be read whole: {outcome}")
    read: str | None = outcome.result[1]
    return read


def _judged(kind: Specimen, number: int, place: Path, whole: set[str | None], limits: Limits) -> Verdict:
    random, folder = limits.random("damage", kind.name, number), place / str(number)
    shutil.copytree(place / kind.name, folder)
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    before = {name: digest(folder / name) for name in names if any(fnmatch(name, each) for each in kind.protected)}
    targets = [name for name in names if any(fnmatch(name, each) for each in kind.damaged)]
    how = damaged(folder, targets, random)
    changed = any(not (folder / name).is_file() or digest(folder / name) != sum for name, sum in before.items())
    outcome = forked(lambda: kind.read(folder), seconds=HANGS, limited=True)
    shutil.rmtree(folder)
    wrong, notes = ended_well(outcome)
    if not wrong and outcome.result[0] == 0 and changed and outcome.result[1] not in whole:
        wrong = ["something else was read, though a digest says what was written"]
    return Verdict(f"{kind.name}: {how} (number {number})", wrong, 1, notes)


def ended_well(outcome: Outcome) -> tuple[list[str], list[str]]:
    """Return what is wrong with the end of a fork that returned an exit status, and whether it read or refused."""
    messages = [line for line in outcome.said.splitlines() if line.startswith("lrpet: ")]
    status = outcome.result[0] if outcome.result is not None else None
    wrong = []
    if outcome.late:
        wrong.append("hung")
    elif status not in (0, 2):
        wrong.append(f"ended with status {status if status is not None else outcome.status}, signal {outcome.signal}")
    if "Traceback" in outcome.said:
        wrong.append("a traceback")
    if status == 2 and len(messages) != 1:
        wrong.append(f"{len(messages)} messages")
    if outcome.grown > MEMORY and not outcome.late:
        wrong.append(f"took {outcome.grown / 2**20:,.0f} MiB of memory")
    return wrong + ([outcome.said[-600:]] if wrong else []), ["refused"] if status == 2 else ["read"]
