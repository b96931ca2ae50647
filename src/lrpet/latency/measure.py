"""Timing networks against each other."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lrpet.layers import evaluating


@torch.no_grad()
def latency(models: Mapping[str, nn.Module], example: Tensor, *, seconds: float = 1.0) -> dict[str, float]:
    """Return the median milliseconds of one forward pass of each model, in eval mode on the device of `example`.

    The contenders take turns, so that a machine busy with other work slows all of them alike. `seconds` bounds the
    measuring of each (at least five rounds are run).
    """
    times: dict[str, list[float]] = {name: [] for name in models}
    with evaluating(*models.values()):
        for model in models.values():
            model(example)  # warm-up
        started = time.perf_counter()
        while len(next(iter(times.values()))) < 5 or time.perf_counter() - started < seconds * len(models):
            for name, model in models.items():
                begin = time.perf_counter()
                model(example)
                if example.is_cuda:
                    torch.cuda.synchronize()
                times[name].append(1e3 * (time.perf_counter() - begin))
    return {name: statistics.median(values) for name, values in times.items()}
