"""Train densely, factorise by SVD, and train the factors on, as most earlier low-rank methods do.

Three fifths of the epochs go to the dense network and two fifths to the factors. Each part has a cycle of the learning rate of
its own, and the second peaks at half the rate of the first.
"""

from __future__ import annotations

from typing import Any

from torch import nn

import lrpet
from benchmarks.accuracy.run import RECIPE, Run


def train(run: Run) -> nn.Module:
    """Cut to the run's ranks."""
    again = run.retraining_epochs
    compact = lrpet.factorize(run.dense(run.cell.epochs - again), run.plan)
    return run.fit("retrain", compact, epochs=again, lr=RECIPE["lr"] / 2)


def by_energy(run: Run, **options: Any) -> nn.Module:
    """Cut to ranks that the trained network's energies divide, as LRPET's default does; `options` are those of the plan.

    With rectification, the default, the cut is that of the weights as batch norm scales them.
    """
    again = run.retraining_epochs
    network = run.dense(run.cell.epochs - again)
    plan = run.plan_by_energy(network, **options)
    return run.fit("retrain", lrpet.factorize(network, plan), epochs=again, lr=RECIPE["lr"] / 2)
