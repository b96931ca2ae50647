"""Train densely, then on with LRPET in a second cycle of the learning rate: `svd_retrain`, projected instead of factorised.

Against `svd_retrain` it tells whether full-size weights near the low-rank ones are better to retrain than factors; against
LRPET in one cycle, whether a trained network is the better start.
"""

from __future__ import annotations

from torch import nn

import lrpet
from benchmarks.accuracy.run import RECIPE, Run


def train(run: Run) -> nn.Module:
    again = run.retraining_epochs
    network = run.dense(run.cell.epochs - again)
    options = {"epochs": again, "lr": RECIPE["lr"] / 2, "every": 5, "project_from": 0.0}
    return lrpet.factorize(run.fit("retrain", network, plan=run.plan, **options), run.plan)
