"""Structured pruning with Torch-Pruning (Fang et al., DepGraph, CVPR 2023): train densely, prune channels, retrain.

Groups with the smallest L2 norms are pruned, the same fraction in every layer. The fraction leaves no more multiply-adds than
the low-rank plan has. Epochs and learning rates are divided between training and retraining as in `svd_retrain`. In the CIFAR
ResNets only channels inside the blocks are pruned. Those of the residual stream stay, because the dependency graph cannot
follow shortcuts without parameters (subsampling, and padding with zeros).
"""

from __future__ import annotations

import copy

from torch import Tensor, nn

import lrpet
from benchmarks.accuracy.run import RECIPE, Run
from lrpet.models.resnet import ResNet

HALVINGS = 12


def train(run: Run) -> nn.Module:
    again = run.retraining_epochs
    pruned = prune(run.dense(run.cell.epochs - again), run.task.example, macs=run.plan.layer_macs)
    return run.fit("retrain", pruned, epochs=again, lr=RECIPE["lr"] / 2)


def prune(network: nn.Module, example: Tensor, *, macs: int, round_to: int | None = None) -> nn.Module:
    """Return a copy of `network` with as many channels as fit into the multiply-adds of convolutions and linears.

    With `round_to`, numbers of channels are multiples of it.
    """
    low, high, best = 0.0, 1.0, None
    for _ in range(HALVINGS):
        ratio = (low + high) / 2
        candidate = _pruned(network, example, ratio, round_to)
        if lrpet.plan(candidate, example, ranks={}).layer_macs_dense <= macs:
            high, best = ratio, candidate
        else:
            low = ratio
    if best is None:
        raise ValueError(f"no pruning of channels leaves {macs} multiply-adds or fewer")
    return best


def _pruned(network: nn.Module, example: Tensor, ratio: float, round_to: int | None) -> nn.Module:
    import torch_pruning  # only this method needs it

    pruned = copy.deepcopy(network)
    layers = [(name, module) for name, module in pruned.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    stream = isinstance(network, ResNet)
    kept = [
        module
        for name, module in layers
        if isinstance(module, nn.Linear) or (stream and not (name.startswith("layer") and name.endswith("conv1")))
    ]
    torch_pruning.pruner.BasePruner(
        pruned,
        example,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=ratio,
        ignored_layers=kept,
        round_to=round_to,
    ).step()
    return pruned
