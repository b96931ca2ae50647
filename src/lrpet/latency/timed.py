"""Plans by what is measured here: the layers first, then the whole network as planned."""

from __future__ import annotations

import statistics
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import nn

from lrpet.compact.factorize import factorize
from lrpet.latency.cache import Entry, ranks_key
from lrpet.latency.measure import raced
from lrpet.latency.profile import Interrupted, profile_latency
from lrpet.latency.runtimes import Pass, check_runtime, ready
from lrpet.latency.table import LatencyTable
from lrpet.layers import evaluating
from lrpet.layers.inputs import Inputs
from lrpet.planning.budget import ImpossibleBudgetError
from lrpet.planning.plan import Plan
from lrpet.planning.text import printable
from lrpet.planning.times import Runtime

#: A prediction is good enough if it misses the measured time by this fraction of the dense network's.
CLOSE = 0.02
#: A network that is not measured to be this much faster, as a fraction of the dense one's time, is not told apart from it:
#: a small one can take so much more or less when it is loaded again.
LEAST_GAIN = 0.05
#: A network is planned, measured and planned again at most this many times.
ATTEMPTS = 5
#: Seconds that each form of a layer is measured, and that each whole network is.
LAYER_SECONDS = 0.1
NETWORK_SECONDS = 2.0


def timed(
    model: nn.Module,
    example_inputs: Any,
    runtime: Runtime,
    decided: Callable[[LatencyTable], Plan],
    *,
    budget: float | None,
    seconds: tuple[float, float] = (LAYER_SECONDS, NETWORK_SECONDS),
) -> Plan:
    """Return the plan that `decided` makes of measured times, with what the planned network was measured to take.

    Layers alone save more than a network of them does: between two layers there is more to be done. So the network is
    measured as planned, in turns with the dense one, what layers save is scaled to that, and the plan made again, until
    prediction and measurement agree.

    Args:
        model: The dense network.
        example_inputs: What its forward takes.
        runtime: What runs it.
        decided: From a table to a plan that meets the budget by it.
        budget: The budget of time, as a fraction or in milliseconds; None where only other budgets are to be met.
        seconds: Bounds the measuring of each form of a layer, and of each whole network.

    Raises:
        ValueError: the budget cannot be met, the network is not clearly faster, or the runtime cannot take it.
        ImportError: the runtime is not installed.
    """
    inputs = Inputs.of(example_inputs)
    check_runtime(runtime, inputs.device)
    entry = Entry.of(model, inputs, runtime)
    table = _table(model, inputs, runtime, entry, seconds[0])
    race = _Race(model, inputs, runtime, entry, seconds[1])
    ratio = 0.0
    for _ in range(ATTEMPTS):
        plan = decided(table)
        if not plan.ranks:
            return plan
        assert plan.timing is not None
        predicted, ratio = plan.timing.predicted, race.ratio(plan)
        measured = ratio * table.network
        plan = replace(plan, timing=replace(plan.timing, measured=measured))
        realised = (table.network - measured) / (table.network - predicted) * table.realised
        if realised <= 0:
            return _not_faster(plan, ratio, budget)
        if abs(measured - predicted) <= CLOSE * table.network:
            break
        table = replace(table, realised=realised)
    return _not_faster(plan, ratio, budget) if ratio > 1 - LEAST_GAIN else plan


def _table(model: nn.Module, inputs: Inputs, runtime: Runtime, entry: Entry, seconds: float) -> LatencyTable:
    """Return the times of the layers: known ones, or measured now, which may take a minute and says so."""
    if entry.table is not None and not entry.table.source.get("interrupted"):
        return entry.table
    told = _Told(f"measuring layers in {runtime}")
    try:
        entry.table = profile_latency(model, inputs, runtime=runtime, seconds=seconds, known=entry.table, told=told)
    except Interrupted as interruption:
        if interruption.table is not None:
            source = {**interruption.table.source, "interrupted": True}
            entry.table = replace(interruption.table, source=source)
            entry.keep()
        raise
    finally:
        told.done()
    entry.keep()
    return entry.table


class _Race:
    """Measures networks as planned in turns with the dense one."""

    def __init__(self, model: nn.Module, inputs: Inputs, runtime: Runtime, entry: Entry, seconds: float) -> None:
        self.model, self.inputs, self.runtime, self.entry, self.seconds = model, inputs, runtime, entry, seconds

    def ratio(self, plan: Plan) -> float:
        """Return the time of the planned network as a fraction of the dense one's: known, or measured now."""
        key = ranks_key(plan)
        if key not in self.entry.whole:
            told = _Told(f"measuring the network as planned in {self.runtime}")
            told("")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # weights that are cut off: time does not depend on them
                compact = factorize(self.model, plan)
            with torch.no_grad(), evaluating(self.model, compact):
                passes = {"dense": self._dense, "compact": ready(compact, self.inputs, self.runtime)}
                times = raced(passes, seconds=self.seconds, device=self.inputs.device)
            self.entry.whole[key] = statistics.median(times["compact"]) / statistics.median(times["dense"])
            self.entry.keep()
            told.done()
        return self.entry.whole[key]

    @cached_property
    def _dense(self) -> Pass:
        return ready(self.model, self.inputs, self.runtime)


def _not_faster(plan: Plan, ratio: float, budget: float | None) -> Plan:
    """Return a plan that is not clearly faster, with a warning; raise ValueError if there is a budget of time."""
    assert plan.timing is not None
    said = (
        f"the network as planned takes {ratio:.2f} of the dense network's time ({plan.timing.conditions}), "
        f"and is only taken for faster from {1 - LEAST_GAIN:g} down, though its layers alone are"
    )
    if budget is not None:
        raise ImpossibleBudgetError(
            f"latency={budget:g} cannot be met: {said}. Choose other layers, or another runtime."
        )
    warnings.warn(f"{said}: low rank does not pay here", stacklevel=4)
    return plan


class _Told:
    """Says on one line of the terminal what is measured, where the standard error output is a terminal."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.shown = sys.stderr.isatty()

    def __call__(self, name: str) -> None:
        if self.shown:
            print(f"\r\x1b[2Klrpet: {self.what} {printable(name)}", end="", file=sys.stderr, flush=True)

    def done(self) -> None:
        if self.shown:
            print("\r\x1b[2K", end="", file=sys.stderr, flush=True)
