"""Several runs at once on one folder: one gets it, the others say so, and what comes out is that of one alone."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.faults.forks import Limits, Outcome, spread
from benchmarks.faults.full_disk import one_message
from benchmarks.faults.kills import uninterrupted
from benchmarks.faults.runs import config_of, differing, start
from benchmarks.faults.verdicts import Verdict, summed
from lrpet.train.config import Config

#: Meetings to try.
MEETINGS = 60
NAMES = ("epochs", "tensorboard", "adamw")


def loop(limits: Limits) -> dict[str, Any]:
    """Let two to four runs meet on a folder: new ones, resumed ones, resumed ones of a killed run, and a run and its own."""
    with tempfile.TemporaryDirectory(prefix="together-") as temporary:
        place = Path(temporary)
        count = MEETINGS if limits.count is None else limits.count
        names = NAMES[:count]
        whole = {name: uninterrupted(name, place) for name in names}
        kinds = list(MEETING)

        def judge(kind: str, number: int) -> dict[str, Any]:
            name, random = names[number % len(names)], limits.random("together", number)
            below = place / str(number)
            below.mkdir()
            verdict = _met(kind, config_of(name, below / "run"), random, whole[name])
            shutil.rmtree(below)
            return verdict.plain()

        verdicts = spread([kinds[i % len(kinds)] for i in range(count)], judge, limits)
    return summed(verdicts, planned=count)


def _new(config: Config, random: Random, seconds: float) -> list[tuple[float, bool]]:
    return [(random.uniform(0, 0.3 * seconds), False) for _ in range(random.randint(2, 4))]


def _resumed(config: Config, random: Random, seconds: float) -> list[tuple[float, bool]]:
    return [(random.uniform(0, 0.1 * seconds), True) for _ in range(random.randint(2, 4))]


def _killed_before(config: Config, random: Random, seconds: float) -> list[tuple[float, bool]]:
    start(config).wait(random.uniform(0.3, 0.9) * seconds)
    return _resumed(config, random, seconds)


def _own(config: Config, random: Random, seconds: float) -> list[tuple[float, bool]]:
    return [(0.0, False), (random.uniform(0, seconds), True)]


#: {what meets: what prepares it, and returns for each run the seconds after which it begins, and whether it is resumed}.
MEETING: dict[str, Callable[[Config, Random, float], list[tuple[float, bool]]]] = {
    "new runs": _new,
    "resumed runs": _resumed,
    "resumed runs of a killed one": _killed_before,
    "a run and its own": _own,
}


def _met(kind: str, config: Config, random: Random, whole: dict[str, Any]) -> Verdict:
    runs = sorted(MEETING[kind](config, random, whole["seconds"]))
    began, forks = time.monotonic(), []
    for delay, resume in runs:
        time.sleep(max(0.0, began + delay - time.monotonic()))
        forks.append(start(config, resume=resume))
    outcomes = [fork.wait() for fork in forks]
    done = [outcome for outcome in outcomes if outcome.status == 0]
    wrong = [text for outcome in outcomes if outcome.status != 0 for text in _refused(outcome)]
    if not done or (kind == "new runs" and len(done) > 1):
        wrong.append(
            f"{len(done)} of {len(outcomes)} runs came to their end: {[each.said[-200:] for each in outcomes]}"
        )
    if done:
        wrong += [f"another {what} than that of one run alone" for what in differing(config.folder, whole["left"])]
    return Verdict(f"{len(outcomes)} {kind}", wrong, 1, [f"{len(done)} came to the end"])


def _refused(outcome: Outcome) -> list[str]:
    """Return what is wrong with the end of a run that did not get the folder."""
    expected = any(words in outcome.said for words in ("under way", "exists", "came into being meanwhile"))
    return one_message(outcome) + ([] if expected else [f"refused for another reason: {outcome.said[-500:]}"])
