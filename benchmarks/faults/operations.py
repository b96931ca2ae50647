"""A kill before every single operation on files: of trainings, and of a network that is saved over another one."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import lrpet
from benchmarks.faults.forks import Limits, forked, spread
from benchmarks.faults.runs import config_of, differing, left_by, leftovers, start, train
from benchmarks.faults.verdicts import Verdict, summed
from benchmarks.faults.watching import dying, watch
from lrpet import models
from lrpet.train.config import Config

Found = tuple[list[str], list[str]]
"""What is wrong, and what is worth noting."""


@dataclass(frozen=True)
class Subject:
    """Something that writes, which is killed at each of its operations."""

    name: str
    prepare: Callable[[Path], None]
    """Puts what was there before into a folder."""
    write: Callable[[Path], None]
    """Writes in a fork."""
    judge: Callable[[Path], Found]
    """Goes on after a kill, and returns what is wrong and what is worth noting."""


def loop(limits: Limits) -> dict[str, Any]:
    """Kill every subject before each of its operations on files; with a count, before so many, evenly spaced."""
    with tempfile.TemporaryDirectory(prefix="operations-") as temporary:
        place = Path(temporary)
        subjects = _subjects(place)
        operations = {subject.name: _counted(subject, place / f"counted-{subject.name}") for subject in subjects}
        cases = [(subject, number) for subject in subjects for number in range(operations[subject.name])]
        if limits.count is not None:
            cases = [cases[i * len(cases) // limits.count] for i in range(min(limits.count, len(cases)))]
        verdicts = spread(cases, lambda case, number: _killed(*case, place / str(number)), limits)
    return summed(verdicts, operations=operations, planned=len(cases))


def _counted(subject: Subject, folder: Path) -> int:
    """Return how many operations a subject has."""

    def work() -> list[str]:
        names: list[str] = []
        watch(folder, lambda event, path: names.append(event))
        subject.write(folder)
        return names

    folder.mkdir()
    subject.prepare(folder)
    outcome = forked(work)
    if outcome.result is None:
        raise RuntimeError(f"{subject.name} does not even run undisturbed: {outcome.said}")
    return len(outcome.result)


def _killed(subject: Subject, number: int, folder: Path) -> dict[str, Any]:
    def work() -> None:
        dying(folder, number)
        subject.write(folder)

    folder.mkdir()
    subject.prepare(folder)
    outcome = forked(work)
    if outcome.signal != signal.SIGKILL:
        wrong, notes = [f"was not killed, but ended with status {outcome.status}: {outcome.said[-500:]}"], list[str]()
    else:
        wrong, notes = subject.judge(folder)
    shutil.rmtree(folder)
    return Verdict(f"{subject.name}, operation {number}", wrong, 1, notes).plain()


def _subjects(place: Path) -> list[Subject]:
    """Make the subjects: a training, a finished training that goes on for longer, and a network that is saved."""
    left = {epochs: _finished(place / f"whole-{epochs}", epochs) for epochs in (3, 4)}

    def finished_before(folder: Path) -> None:
        shutil.copytree(place / "whole-3" / "run", folder / "run")

    return [
        Subject("training", _nothing, partial(_train, epochs=3), partial(_resumed, epochs=3, left=left[3])),
        Subject("going on", finished_before, partial(_train, epochs=4), partial(_resumed, epochs=4, left=left[4])),
        _saving(),
    ]


def _nothing(folder: Path) -> None:
    """Prepare nothing."""


def _config(folder: Path, epochs: int) -> Config:
    return config_of("epochs", folder / "run", epochs=epochs, schedule="constant", milestones=[])


def _train(folder: Path, *, epochs: int) -> None:
    train(_config(folder, epochs), resume=True)


def _finished(folder: Path, epochs: int) -> dict[str, Any]:
    folder.mkdir()
    outcome = forked(lambda: _train(folder, epochs=epochs))
    if outcome.status != 0:
        raise RuntimeError(f"a training does not even run undisturbed: {outcome.said}")
    return left_by(folder / "run")


def _resumed(folder: Path, *, epochs: int, left: dict[str, Any]) -> Found:
    config = _config(folder, epochs)
    outcome = start(config, resume=True).wait()
    if outcome.status != 0:
        return [f"cannot be resumed, status {outcome.status}: {outcome.said[-500:]}"], []
    wrong = [f"another {what} than undisturbed" for what in differing(config.folder, left)]
    return wrong, ["left temporary files"] if leftovers(config.folder) else []


def _saving() -> Subject:
    """Save a compact network over another one, beside which lies a file of somebody's own."""
    old, new = _compact(0), _compact(1)

    def prepare(folder: Path) -> None:
        lrpet.save(old, folder / "compact")
        (folder / "compact" / "notes.txt").write_text("mine", encoding="utf-8")

    def write(folder: Path) -> None:
        lrpet.save(new, folder / "compact", overwrite=True)

    def judge(folder: Path) -> Found:
        target, wrong, notes = folder / "compact", list[str](), list[str]()
        places = [path for path in (target, *folder.glob(".compact.*/old")) if path.is_dir()]
        if not target.is_dir():
            notes.append("the old network lay in a hidden folder")
        elif not (target / "notes.txt").is_file():
            notes.append("a file of somebody's own lay in a hidden folder")
        if not any((place / "notes.txt").is_file() for place in places):
            wrong.append("a file of somebody's own is gone")
        if not places or not any(_is(places[0], network) for network in (old, new)):
            wrong.append("there is neither the old network nor the new one")
        lrpet.save(new, target, overwrite=True)
        if not _is(target, new):
            wrong.append("saving again does not give the new network")
        return wrong, notes + (["left temporary files"] if leftovers(target) else [])

    return Subject("saving", prepare, write, judge)


def _compact(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    network = models.create("resnet8", in_channels=1)
    return lrpet.factorize(network, lrpet.plan(network, torch.zeros(1, 1, 8, 8), keep=0.5))


def _is(folder: Path, network: nn.Module) -> bool:
    """Whether a folder holds this network, whole."""
    state = lrpet.load(folder).state_dict()
    return all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
