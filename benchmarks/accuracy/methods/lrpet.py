"""LRPET (Guo et al., 2024), and the same without its parts.

All but the authors' own schedule project once an epoch for the first half of the training and then ever more often, down to
every 5 steps.
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


def train_without_energy_transfer(run: Run) -> nn.Module:
    return _train(run, energy_transfer=False)


def train_without_rectification(run: Run) -> nn.Module:
    return _train(run, rectify=False)


def train_with_neither(run: Run) -> nn.Module:
    """Projection alone."""
    return _train(run, energy_transfer=False, rectify=False)


def _train(run: Run, **changes: Any) -> nn.Module:
    network = run.fit("train", run.network(), plan=run.plan, **{**SCHEDULE, **changes})
    return lrpet.factorize(network, run.plan)
