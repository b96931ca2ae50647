"""Timing networks against each other."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from lrpet.latency.runtimes import Pass, Runtime, ready
from lrpet.layers import evaluating
from lrpet.layers.inputs import Inputs

#: Rounds are at least this many, however little time there is.
ROUNDS = 5
#: A contender is warm once this many passes in a row were hardly faster than the fastest before.
SETTLED = 3
HARDLY = 0.98


def latency(
    models: Mapping[str, nn.Module], example_inputs: Any, *, runtime: Runtime = "eager", seconds: float = 1.0
) -> dict[str, float]:
    """Return the median milliseconds of one forward pass of each model, in eval mode on the device of the inputs.

    Args:
        models: {name: network}; left as they were found.
        example_inputs: A tensor, a tuple of positional arguments, or a mapping of keyword arguments.
        runtime: What runs the models.
        seconds: Bounds the measuring of each model (at least five rounds are run).
    """
    return {
        name: median
        for name, (_, median, _) in quartiles(models, example_inputs, runtime=runtime, seconds=seconds).items()
    }


@torch.no_grad()
def quartiles(
    models: Mapping[str, nn.Module], example_inputs: Any, *, runtime: Runtime = "eager", seconds: float = 1.0
) -> dict[str, tuple[float, float, float]]:
    """Return the milliseconds that a quarter, a half and three quarters of each model's passes were below.

    Takes what `latency` does.
    """
    inputs = Inputs.of(example_inputs)
    with evaluating(*models.values()):
        torch.compiler.reset()
        passes = {name: ready(model, inputs, runtime) for name, model in models.items()}
        times = raced(passes, seconds=seconds, device=inputs.device)
    return {name: _quartiles(values) for name, values in times.items()}


def _quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high


def raced(
    passes: Mapping[str, Pass],
    *,
    seconds: float,
    device: torch.device = torch.device("cpu"),  # noqa: B008  # a constant
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Return the milliseconds that each contender takes, round by round.

    Contenders warm up until they get no faster. In every round each runs once, in a random order, so that a machine busy
    with other work slows all of them alike. `seconds` bounds the rounds of each, and its warming up.
    """

    def timed(run: Pass) -> float:
        begin = clock()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return 1e3 * (clock() - begin)

    for run in passes.values():
        timed(run)  # compiles, or allocates
        _settle(lambda run=run: timed(run), seconds, clock)  # type: ignore[misc]
    times: dict[str, list[float]] = {name: [] for name in passes}
    order, shuffle = list(passes), random.Random(0).shuffle
    rounds, began = 0, clock()
    while rounds < ROUNDS or clock() - began < seconds * len(passes):
        shuffle(order)
        for name in order:
            times[name].append(timed(passes[name]))
        rounds += 1
    return times


def _settle(timed: Callable[[], float], seconds: float, clock: Callable[[], float]) -> None:
    """Run until a few passes in a row are hardly faster than the fastest before, or until the time is up."""
    fastest, since, began = math.inf, 0, clock()
    while since < SETTLED and clock() - began < seconds:
        milliseconds = timed()
        since = since + 1 if milliseconds > HARDLY * fastest else 0
        fastest = min(fastest, milliseconds)
