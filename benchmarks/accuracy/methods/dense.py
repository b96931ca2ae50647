"""The full-size network, not compressed."""

from __future__ import annotations

from torch import nn

import lrpet
from benchmarks.accuracy.run import Run


def train(run: Run) -> nn.Module:
    network = run.dense(run.cell.epochs)
    return lrpet.factorize(network, lrpet.plan(network, run.task.example, ranks={}))
