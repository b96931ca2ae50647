"""Factors trained from scratch as in `factors`, with Frobenius decay: ½·λ·‖U·Vᵀ‖²_F in place of ½·λ·(‖U‖² + ‖V‖²).

Khodak, Tenenholtz, Mackey, Fusi: Initialization and Regularization of Factorized Neural Layers, ICLR 2021.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import lrpet
from benchmarks.accuracy.run import RECIPE, BeforeStep, Run


def train(run: Run) -> nn.Module:
    """Train the factors from scratch."""
    compact = lrpet.factorize(run.network(), run.plan)
    return run.fit("train", compact, before_step=decaying(compact, run.plan))


def decaying(compact: nn.Module, plan: lrpet.Plan) -> BeforeStep:
    """Return what adds Frobenius decay to the gradients of a compact network's factors."""
    pairs = [_weights(compact.get_submodule(name)) for name in plan.ranks]

    @torch.no_grad()
    def decay(projector: lrpet.Projector, optimizer: torch.optim.Optimizer) -> None:
        for right, left in pairs:  # W = left·right
            v, u = right.flatten(1), left.flatten(1)
            for weight, gradient in ((right, u.mT @ u @ v), (left, u @ (v @ v.mT))):
                assert weight.grad is not None
                # The optimizer adds λ·weight of its own, which is taken off here.
                weight.grad.add_(gradient.view_as(weight) - weight, alpha=RECIPE["weight_decay"])

    return decay


def _weights(pair: nn.Module) -> tuple[Tensor, Tensor]:
    first, second = pair.children()
    assert isinstance(first.weight, Tensor)
    assert isinstance(second.weight, Tensor)
    return first.weight, second.weight
