"""Train densely, then with LRPET in a second cycle of the learning rate: `svd_retrain`, but projecting.

Compared with `svd_retrain`, it shows whether full-size weights near the low-rank ones are better to retrain than factors.
Compared with LRPET in one cycle, it shows whether a trained network is the better start.
"""

from __future__ import annotations

from torch import nn

import lrpet
from benchmarks.accuracy.run import RECIPE, Run


def train(run: Run) -> nn.Module:
    again = run.retraining_epochs
    network = run.dense(run.cell.epochs - again)
    options = {"epochs": again, "lr": RECIPE["lr"] / 2, "every": 5, "start": 0.0}
    return lrpet.factorize(run.fit("retrain", network, plan=run.plan, **options), run.plan)
