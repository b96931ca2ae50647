"""Train densely, factorise by SVD, train the factors on: what most low-rank methods before did.

Three fifths of the epochs go to the dense network and two fifths to the factors, each with a cycle of the learning rate of its
own, the second up to half the first's peak.
"""

from __future__ import annotations

from torch import nn

import lrpet
from benchmarks.accuracy.run import RECIPE, Run


def train(run: Run) -> nn.Module:
    again = run.retraining_epochs
    compact = lrpet.factorize(run.dense(run.cell.epochs - again), run.plan)
    return run.fit("retrain", compact, epochs=again, lr=RECIPE["lr"] / 2)
