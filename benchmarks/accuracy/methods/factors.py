"""Factors trained from scratch, begun as the SVD of the usual initialisation ("spectral initialisation").

Khodak, Tenenholtz, Mackey, Fusi: Initialization and Regularization of Factorized Neural Layers, ICLR 2021.
"""

from __future__ import annotations

from torch import nn

import lrpet
from benchmarks.accuracy.run import Run


def train(run: Run) -> nn.Module:
    return run.fit("train", lrpet.factorize(run.network(), run.plan))
