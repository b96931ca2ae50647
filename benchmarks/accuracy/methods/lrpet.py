"""LRPET (Guo et al., 2024), and the same without its parts.

Where nothing else is said, a projection an epoch for the first half of the training and then ever more often, down to every
5 steps.
"""

from __future__ import annotations

from typing import Any

from torch import nn

import lrpet
from benchmarks.accuracy.run import Run

SCHEDULE: dict[str, Any] = {"every": "epoch", "every_last": 5, "shrink_from": 0.5}


def train(run: Run) -> nn.Module:
    return _train(run)


def train_as_authors(run: Run) -> nn.Module:
    """A projection an epoch, to the end."""
    return _train(run, every_last=None)


def train_late(run: Run) -> nn.Module:
    """No projection for the first half of the training, then one, and then ever more often down to every 5 steps."""
    return _train(run, **_late(run))


def train_late_with_neither(run: Run) -> nn.Module:
    """The same, projection alone."""
    return _train(run, **_late(run), energy_transfer=False, rectify=False)


def train_without_energy_transfer(run: Run) -> nn.Module:
    return _train(run, energy_transfer=False)


def train_without_rectification(run: Run) -> nn.Module:
    return _train(run, rectify=False)


def train_with_neither(run: Run) -> nn.Module:
    """Projection alone."""
    return _train(run, energy_transfer=False, rectify=False)


def train_falling(run: Run) -> nn.Module:
    """Ranks that fall to the plan's over six tenths of the training, a projection every 50 steps; then ever more often."""
    return _train(run, **_falling(run))


def train_falling_by_energy(run: Run) -> nn.Module:
    """The same, the plan's multiply-adds allocated anew at every projection: to keep most energy."""
    return _train(run, **_falling(run), **_macs(run), allocate="energy")


def train_falling_by_threshold(run: Run) -> nn.Module:
    """The same, pruning the same fraction of every layer's energy."""
    return _train(run, **_falling(run), **_macs(run), allocate="threshold")


def _falling(run: Run) -> dict[str, Any]:
    return {"every": 50, "shrink_from": 0.6, "descent": 0.6}


def _macs(run: Run) -> dict[str, Any]:
    return {"keep": None, "macs": run.plan.macs / run.plan.macs_dense}


def _late(run: Run) -> dict[str, Any]:
    steps = run.cell.epochs * (len(run.task.train) // run.options["batch_size"])
    return {"every": steps // 2, "shrink_from": 0.0}


def _train(run: Run, **changes: Any) -> nn.Module:
    network = run.fit("train", run.network(), plan=run.plan, **{**SCHEDULE, **changes})
    return lrpet.factorize(network, run.phases[-1].plan)
