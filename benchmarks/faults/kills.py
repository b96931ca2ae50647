"""Kills at random moments: a training that is killed again and again comes to the bits of one that was not."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.faults.forks import Limits, spread
from benchmarks.faults.runs import CONFIGURATIONS, config_of, differing, left_by, leftovers, start
from benchmarks.faults.verdicts import Verdict, summed

#: Kills of the whole loop.
KILLS = 1000
#: A run that has not come to its end after so many attempts makes no headway.
ATTEMPTS = 60


def loop(limits: Limits, *, names: Sequence[str] = tuple(CONFIGURATIONS)) -> dict[str, Any]:
    """Kill trainings of all configurations in turn, until there were as many kills as are wanted."""
    with tempfile.TemporaryDirectory(prefix="kills-") as temporary:
        place, wanted = Path(temporary), KILLS if limits.count is None else limits.count
        names = names[:wanted]
        whole = dict(zip(names, spread(names, lambda name, _: uninterrupted(name, place), limits), strict=True))
        share, kills = wanted / limits.workers, 0  # of the fork that judges

        def judge(name: str, number: int) -> dict[str, Any] | None:
            nonlocal kills
            if kills >= share:
                return None
            verdict = _killed(name, place / str(number), whole[name], limits)
            kills += verdict.count
            return verdict.plain()

        rounds = list(itertools.islice(itertools.cycle(names), 10 * wanted))
        verdicts = [verdict for verdict in spread(rounds, judge, limits) if verdict is not None]
    tried = {verdict["case"] for verdict in verdicts if verdict["count"]}
    return summed(verdicts, wanted=wanted, configurations=len(tried))


def uninterrupted(name: str, place: Path) -> dict[str, Any]:
    """Train a configuration to the end, and return what it comes to, with its seconds."""
    folder = place / f"whole-{name}"
    outcome = start(config_of(name, folder)).wait()
    if outcome.status != 0:
        raise RuntimeError(f"{name} does not even run undisturbed: {outcome.said}")
    return {"seconds": outcome.seconds, "left": left_by(folder)}


def _killed(name: str, place: Path, whole: Mapping[str, Any], limits: Limits) -> Verdict:
    """Train a configuration, killed at random moments and resumed, to the end."""
    random, config = limits.random("kills", name, place.name), config_of(name, place / "run")
    kills, wrong = 0, list[str]()
    place.mkdir()
    for _ in range(ATTEMPTS):
        moment = random.uniform(0, 1.1 * whole["seconds"])
        outcome = start(config, resume=config.folder.exists()).wait(moment)
        kills += outcome.late
        wrong += [line for line in outcome.said.splitlines() if "damaged" in line]
        if not outcome.late:
            break
    if outcome.status != 0:
        wrong.append(f"ended with status {outcome.status}, signal {outcome.signal}: {outcome.said[-500:]}")
    else:
        wrong += [f"another {what} than undisturbed" for what in differing(config.folder, whole["left"])]
    notes = ["left temporary files"] if leftovers(config.folder) else []
    shutil.rmtree(place)
    return Verdict(name, wrong, kills, notes)
