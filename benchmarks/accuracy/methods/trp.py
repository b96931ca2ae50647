"""Trained rank pruning: truncation every 20 steps, and the nuclear norm's subgradient in the next gradient.

Xu, Li, Zhang, Wen, Wang, Qi, Chen, Lin, Xiong: TRP: Trained Rank Pruning for Efficient Deep Neural Networks, IJCAI 2020.
Interval and weight (3e-4) are those that they give for CIFAR-10. Ranks are fixed to the plan's, for equal cost.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import lrpet
from benchmarks.accuracy.run import Run

EVERY = 20
WEIGHT = 3e-4


def train(run: Run) -> nn.Module:
    network = run.network()
    layers = run.plan.bind(network)

    @torch.no_grad()
    def add_subgradient(projector: lrpet.Projector, optimizer: torch.optim.Optimizer) -> None:
        if projector.last is None or projector.last.step != projector.steps:
            return
        for name, layer in layers.items():
            weight = layer.weight
            assert weight.grad is not None
            weight.grad.add_(subgradient(weight.flatten(1), run.plan.ranks[name]).view_as(weight), alpha=WEIGHT)

    network = run.fit(
        "train",
        network,
        plan=run.plan,
        before_step=add_subgradient,
        every=EVERY,
        start=0.0,
        energy_transfer=False,
        rectify=False,
    )
    return lrpet.factorize(network, run.plan)


def subgradient(matrix: Tensor, rank: int) -> Tensor:
    """Return U_r·V_rᵀ, a subgradient of the nuclear norm at a matrix of rank r."""
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    product: Tensor = left[:, :rank] @ right[:rank]
    return product
