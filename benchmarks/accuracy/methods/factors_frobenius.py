"""Factors trained from scratch as in `factors`, with Frobenius decay: ½·λ·‖U·Vᵀ‖²_F in place of ½·λ·(‖U‖² + ‖V‖²).

Khodak, Tenenholtz, Mackey, Fusi: Initialization and Regularization of Factorized Neural Layers, ICLR 2021.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import lrpet
from benchmarks.accuracy.run import RECIPE, BeforeStep, Run


def train(run: Run, plan: lrpet.Plan | None = None) -> nn.Module:
    """Train the factors from scratch, at the ranks of `plan` or the run's own."""
    plan = plan or run.plan
    compact = lrpet.factorize(run.network(), plan)
    return run.fit("train", compact, before_step=decaying(compact, plan))


def best(run: Run) -> nn.Module:
    """Train from scratch the factors of kernels that are divided as keeps most energy; budgets are divided uniformly."""
    return train(run, run.divided(run.network(), "uniform", unfolding="best"))


def decaying(compact: nn.Module, plan: lrpet.Plan) -> BeforeStep:
    """Return what adds Frobenius decay to the gradients of a compact network's factors."""
    pairs = [_weights(compact.get_submodule(name)) for name in plan.ranks]

    @torch.no_grad()
    def decay(projector: lrpet.Projector, optimizer: torch.optim.Optimizer) -> None:
        for right, left in pairs:  # W = left·right
            v, u = right.flatten(1), _rows(left)
            for weight, gradient in ((right, u.mT @ u @ v), (left, _folded(u @ (v @ v.mT), left))):
                assert weight.grad is not None
                # The optimizer adds λ·weight of its own, which is taken off here.
                weight.grad.add_(gradient.view_as(weight) - weight, alpha=RECIPE["weight_decay"])

    return decay


def _rows(left: Tensor) -> Tensor:
    """Return the second factor as a matrix: a row for each filter, and for each column of its kernel if that is 1×k."""
    return left.reshape(*left.shape[:2], -1).mT.reshape(-1, left.shape[1])


def _folded(rows: Tensor, like: Tensor) -> Tensor:
    return rows.reshape(len(like), -1, like.shape[1]).mT.reshape(like.shape)


def _weights(pair: nn.Module) -> tuple[Tensor, Tensor]:
    first, second = pair.children()
    assert isinstance(first.weight, Tensor)
    assert isinstance(second.weight, Tensor)
    return first.weight, second.weight
