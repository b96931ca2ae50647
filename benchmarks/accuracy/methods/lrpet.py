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
    return train_with(run)


def train_as_authors(run: Run) -> nn.Module:
    """A projection an epoch, to the end."""
    return train_with(run, every_last=None)


def train_late(run: Run) -> nn.Module:
    """No projection for the first half of the training, then one, and then ever more often down to every 5 steps."""
    return train_with(run, **late(run))


def train_late_with_neither(run: Run) -> nn.Module:
    """The same, projection alone."""
    return train_with(run, **late(run), energy_transfer=False, rectify=False)


def train_without_energy_transfer(run: Run) -> nn.Module:
    return train_with(run, energy_transfer=False)


def train_without_rectification(run: Run) -> nn.Module:
    return train_with(run, rectify=False)


def train_with_neither(run: Run) -> nn.Module:
    """Projection alone."""
    return train_with(run, energy_transfer=False, rectify=False)


def late(run: Run) -> dict[str, Any]:
    """The first projection half-way."""
    steps = run.cell.epochs * (len(run.task.train) // run.options["batch_size"])
    return {"every": steps // 2, "shrink_from": 0.0}


def train_with(run: Run, plan: lrpet.Plan | None = None, **changes: Any) -> nn.Module:
    """LRPET at the ranks of `plan`, or the run's own, with these changes to its options."""
    network = run.fit("train", run.network(), plan=plan or run.plan, **{**SCHEDULE, **changes})
    return lrpet.factorize(network, run.phases[-1].plan)
