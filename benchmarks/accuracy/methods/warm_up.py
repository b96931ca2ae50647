"""A dense warm-up, then factors with Frobenius decay to the end of one cycle of the learning rate, after Cuttlefish.

Wang, Agarwal, U-chupala, Tanaka, Xing, Papailiopoulos: Cuttlefish: Low-Rank Model Training without All the Tuning, MLSys 2023.
Cuttlefish chooses the end of the warm-up and the ranks by itself. Here the warm-up is a quarter of the training, about what it
chose for CIFAR-10, and the ranks are the plan's, for equal cost.
"""

from __future__ import annotations

from torch import nn

import lrpet
from benchmarks.accuracy.methods.factors_frobenius import decaying
from benchmarks.accuracy.run import Run


def train(run: Run) -> nn.Module:
    """Train densely for a quarter of the epochs, and the factors for the rest."""
    warm = max(1, run.cell.epochs // 4)
    network = run.dense_part(warm)
    lrpet.Projector(network, run.plan, start=0, every=1, energy_transfer=False, rectify=False).project()
    compact = lrpet.factorize(network, run.plan)
    return run.fit("factors", compact, before_step=decaying(compact, run.plan), first=warm)
