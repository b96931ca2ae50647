"""PAT of torchao with `MinRankConstraint`: a latent full-size weight takes the gradients that its truncation gets.

The ranks come down by PAT's cubic schedule, from the end of the learning rate's warm-up to `HEALING` of the training; then the
weights themselves are truncated. Both happen every 5 steps, as often as lrpet projects. Ranks are the plan's, for equal cost.
torchao comes with lrpet's extra `executorch`.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from functools import partial

import torch
from torch import Tensor, nn

import lrpet
from benchmarks.accuracy.run import Run

#: The part of the training after which the ranks are at their targets ("healing").
HEALING = 0.8
#: The part of the training in which the rate of the one-cycle schedule rises.
WARM_UP = 0.3
EVERY = 5


def train(run: Run) -> nn.Module:
    network = run.network()
    weights = {name: layer.weight for name, layer in run.plan.bind(network).items()}
    batches = run.task.batches(run.task.train, torch.device("cpu"), training=True)
    wrapped = partial(_pruning, weights=weights, ranks=run.plan.ranks, steps=run.cell.epochs * len(batches))
    return lrpet.factorize(run.fit("train", network, wrapped=wrapped), run.plan)


def _pruning(
    optimizer: torch.optim.Optimizer, *, weights: dict[str, Tensor], ranks: dict[str, int], steps: int
) -> torch.optim.Optimizer:
    """Let PAT draw these weights to their ranks while `optimizer` trains them."""
    from torchao.prototype.pat.optim import PruneOptimizer  # only this method needs it

    by_rank: dict[float, list[Tensor]] = defaultdict(list)
    for name, weight in weights.items():
        full = min(weight.flatten(1).shape)
        by_rank[(full - ranks[name] - 0.5) / full].append(weight)  # PAT rounds the number that it zeroes up
    (group,) = optimizer.param_groups
    pruned = {id(weight) for weight in weights.values()}
    options = {key: copy.copy(value) for key, value in group.items() if key != "params"}
    group["params"] = [parameter for parameter in group["params"] if id(parameter) not in pruned]
    for sparsity, some in by_rank.items():
        constraint = {"group_type": "SVDGrouper", "prox_type": "MinRankConstraint", "prox_freq": EVERY}
        sought = {"min_sparsity": sparsity, "min_sparsity_schedule": True}
        optimizer.add_param_group({**options, "params": some, **constraint, **sought})
    parts = {"warmup_steps": int(WARM_UP * steps), "healing_start_step": int(HEALING * steps)}
    pruning: torch.optim.Optimizer = PruneOptimizer(optimizer, **parts)
    return pruning
