"""SLORR: train densely with a regulariser that draws to low rank, cut by SVD, and train the factors on as in `svd_retrain`.

The regulariser is that of its authors' example, `benchmarks.slorr`, as is its strength but where another is given; all
convolutions but the first get it.
Its authors cut without training on. Ranks are divided by energy, so that what the regulariser did can show.
"""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import nn

import lrpet
from benchmarks.accuracy.run import RECIPE, BeforeStep, Run
from benchmarks.slorr import STRENGTH, hoyer_gradient
from lrpet.layers.matrix import MatrixLayer


def train(run: Run, strength: float = STRENGTH) -> nn.Module:
    """Train with the regulariser, cut, and train the factors on."""
    again = run.retraining_epochs
    network = run.network()
    before_step = _regularising(list(run.plan.bind(network).values()), strength)
    network = run.fit("dense", network, before_step=before_step, epochs=run.cell.epochs - again)
    plan = run.plan_by_energy(network)
    lrpet.Projector(network, plan, start=0, every=1, energy_transfer=False).project()
    return run.fit("retrain", lrpet.factorize(network, plan), epochs=again, lr=RECIPE["lr"] / 2)


def _regularising(layers: list[MatrixLayer], strength: float) -> BeforeStep:
    stacks: dict[torch.Size, list[MatrixLayer]] = defaultdict(list)
    for layer in layers[1:]:
        stacks[layer.matrices().shape].append(layer)

    @torch.no_grad()
    def add(projector: lrpet.Projector, optimizer: torch.optim.Optimizer) -> None:
        for some in stacks.values():
            gradients = hoyer_gradient(torch.cat([layer.matrices() for layer in some]))
            for layer, gradient in zip(some, gradients.chunk(len(some)), strict=True):
                assert layer.weight.grad is not None
                layer.weight.grad.add_(layer.tensor(gradient), alpha=strength)

    return add
