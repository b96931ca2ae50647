"""The trained dense network, its weights cut at the end, with batch norm folded in and without any retraining."""

from __future__ import annotations

from torch import nn

import lrpet
from benchmarks.accuracy.run import Run


def train(run: Run) -> nn.Module:
    return lrpet.factorize(run.dense(run.cell.epochs), run.plan)
