"""LRPET (Guo et al., 2024): lrpet's default, its authors' schedule, and variants with one thing changed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

import lrpet
from benchmarks.accuracy.run import Run

NO_TRANSFER, NO_RECTIFICATION = {"energy_transfer": False}, {"rectify": False}
START = {"start": 0.0}
#: The interval is an epoch for the first half of the training, and then shrinks to 5 steps.
FROM_START: dict[str, Any] = {"every": "epoch", "every_last": 5, "shrink_from": 0.5, **START}

#: Projections come from half of the training on, at intervals that shrink from about √(5·steps/2) to 5 steps.
LATE: dict[str, Any] = {"every": 0.5, "every_last": 5, "shrink_from": 0.0, **START}
FROM_HALF: dict[str, Any] = {"every": 5, "start": 0.5}

#: {method: (its title, its changes to the trainer's defaults)}.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "every_5_from_half": ("LRPET (every 5 steps from half on)", FROM_HALF),
    "half_no_energy_transfer": ("no energy transfer (every 5 steps from half on)", {**FROM_HALF, **NO_TRANSFER}),
    "half_no_rectification": ("no rectification (every 5 steps from half on)", {**FROM_HALF, **NO_RECTIFICATION}),
    "half_neither": (
        "projection alone (every 5 steps from half on)",
        {**FROM_HALF, **NO_TRANSFER, **NO_RECTIFICATION},
    ),
    "half_tail_0.5": ("tail halved instead of pruned (every 5 steps from half on)", {**FROM_HALF, "tail_scale": 0.5}),
    "lrpet_late": ("LRPET (from half on, interval shrinking)", LATE),
    "late_no_energy_transfer": ("no energy transfer (from half on, shrinking)", {**LATE, **NO_TRANSFER}),
    "late_no_rectification": ("no rectification (from half on, shrinking)", {**LATE, **NO_RECTIFICATION}),
    "lrpet_late_neither": ("projection alone (from half on, shrinking)", {**LATE, **NO_TRANSFER, **NO_RECTIFICATION}),
    "late_tail_0.5": ("tail halved instead of pruned (from half on, shrinking)", {**LATE, "tail_scale": 0.5}),
    "late_tail_0.9": ("tail times 0.9 instead of pruned (from half on, shrinking)", {**LATE, "tail_scale": 0.9}),
    "late_quarter": ("LRPET (from a quarter on, interval shrinking)", {**LATE, "every": 0.25}),
    "late_three_quarters": ("LRPET (from three quarters on, interval shrinking)", {**LATE, "every": 0.75}),
    "lrpet": ("LRPET (from the start, interval shrinking)", FROM_START),
    "no_energy_transfer": ("no energy transfer (from the start, shrinking)", {**FROM_START, **NO_TRANSFER}),
    "no_rectification": ("no rectification (from the start, shrinking)", {**FROM_START, **NO_RECTIFICATION}),
    "neither": ("projection alone (from the start, shrinking)", {**FROM_START, **NO_TRANSFER, **NO_RECTIFICATION}),
    "lrpet_authors": ("LRPET (the authors' schedule: every epoch)", {"every": "epoch", **START}),
    "every_100": ("LRPET (every 100 steps from the start)", {"every": 100, **START}),
    "every_20": ("LRPET (every 20 steps from the start)", {"every": 20, **START}),
    "every_5": ("LRPET (every 5 steps from the start)", {"every": 5, **START}),
}


def train(run: Run, plan: lrpet.Plan | None = None, **changes: Any) -> nn.Module:
    """Train by LRPET at the ranks of `plan`, or the run's own, with these changes to the trainer's defaults."""
    network = run.fit("train", run.network(), plan=plan or run.plan, **changes)
    return lrpet.factorize(network, run.phases[-1].plan)


def published(run: Run) -> nn.Module:
    """Train with all settings that the authors published for CIFAR-10, their optimizer's and learning rates included."""
    half, later = run.cell.epochs // 2, 3 * run.cell.epochs // 4
    optimizer: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "nesterov": False, "weight_decay": 1e-4}
    return train(run, **VARIANTS["lrpet_authors"][1], **optimizer, schedule="step", milestones=(half, later))


METHODS: dict[str, Callable[[Run], nn.Module]] = {
    **{name: partial(train, **changes) for name, (_, changes) in VARIANTS.items()},
    "lrpet_published": published,
}
