"""Train densely, factorise by SVD, and train the factors on, as most earlier low-rank methods do.

Three fifths of the epochs go to the dense network and two fifths to the factors. Each part has a cycle of the learning rate of
its own, and the second peaks at half the rate of the first.
"""

from __future__ import annotations

from torch import nn

import lrpet
from benchmarks.accuracy.run import RECIPE, Run


def train(run: Run) -> nn.Module:
    again = run.retraining_epochs
    compact = lrpet.factorize(run.dense(run.cell.epochs - again), run.plan)
    return run.fit("retrain", compact, epochs=again, lr=RECIPE["lr"] / 2)
