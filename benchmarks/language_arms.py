"""The arms of `benchmarks.language`: ways to come to a low-rank language model in equally many steps."""

from __future__ import annotations

import copy
import itertools
from collections import defaultdict
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

import lrpet
from benchmarks.language_training import CONTEXT, DECAY, Training, inputs_of, optimizer_of
from benchmarks.slorr import STRENGTH, hoyer_gradient
from lrpet.layers.moments import output_moments
from lrpet.models.language import language_network
from lrpet.projecting.outputs import project_outputs

#: The network's shape but for its width.
SHAPE = {
    "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": CONTEXT,
    "tie_word_embeddings": False, "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
EXAMPLE = {"input_ids": torch.zeros(1, CONTEXT, dtype=torch.long), "use_cache": False}
#: The number of training batches that outputs are looked at on, where a network is cut by what they need.
CALIBRATION = 16
#: The part of the training after which PAT's rank is at its target ("healing").
HEALING = 0.8


class Shared:
    """What arms and budgets have in common: the network before training, and dense trainings of it.

    Args:
        training: The data and the schedule.
        hidden: The network's width; its MLPs are three times as wide.
    """

    def __init__(self, training: Training, *, hidden: int = 128) -> None:
        torch.manual_seed(training.seed)
        self.training = training
        shape = {**SHAPE, "hidden_size": hidden, "intermediate_size": 3 * hidden}
        self.network = language_network("llama", vocabulary=256, more=shape)

    @cached_property
    def half(self) -> tuple[nn.Module, dict[str, Any]]:
        """The dense network after half of the steps, and the state of its optimizer."""
        model = copy.deepcopy(self.network)
        optimizer = optimizer_of(model)
        self.training.run(model, optimizer, 0, self.training.half)
        return model, optimizer.state_dict()

    def at_half(self) -> tuple[nn.Module, torch.optim.AdamW]:
        """Return a copy of the dense network at half of the training, with its optimizer."""
        model, state = self.half
        model = copy.deepcopy(model)
        optimizer = optimizer_of(model)
        optimizer.load_state_dict(copy.deepcopy(state))
        return model, optimizer

    @cached_property
    def dense(self) -> nn.Module:
        """The dense network after all steps."""
        model, optimizer = self.at_half()
        self.training.run(model, optimizer, self.training.half, self.training.steps)
        return model

    @cached_property
    def regularised(self) -> nn.Module:
        """The dense network after all steps with SLORR's regulariser, before it is cut."""
        return _regularised(self)


class Start:
    """What the arms of one budget begin with."""

    def __init__(self, shared: Shared, *, macs: float) -> None:
        self.shared, self.training, self.network, self.macs = shared, shared.training, shared.network, macs
        self.plan = lrpet.plan(self.network, EXAMPLE, macs=macs, allocate="uniform").settled()

    @property
    def layers(self) -> list[str]:
        """Return the names of the layers that become low-rank."""
        return list(self.plan.ranks)

    @cached_property
    def by_energy(self) -> lrpet.Plan:
        """The plan whose budget is divided by the energies of the dense network at half of the training."""
        return lrpet.plan(self.shared.half[0], EXAMPLE, macs=self.macs, allocate="energy").settled()

    def compressed(self, network: nn.Module, plan: lrpet.Plan | None = None) -> nn.Module:
        """Return the factors of a network's truncated singular value decompositions."""
        plan, copied = plan or self.plan, copy.deepcopy(network)
        lrpet.Projector(copied, plan, start=0, every=1, energy_transfer=False).project()
        return lrpet.factorize(copied, plan)

    def compressed_by_outputs(self, network: nn.Module) -> nn.Module:
        """Return factors that keep the leading principal components of every layer's outputs on some training batches."""
        batches = [inputs_of(tokens) for tokens, _ in itertools.islice(self.training.batches(0), CALIBRATION)]
        return lrpet.compress(network, EXAMPLE, ranks=self.plan.ranks, calibration=batches, energy_transfer=False)


def projected(start: Start, plan: lrpet.Plan | None = None, **options: Any) -> nn.Module:
    """Project every 5 steps from half of the training on, which is lrpet's default."""
    training = start.training
    model, optimizer = start.shared.at_half()
    projector = lrpet.Projector(
        model, plan or start.plan, total_steps=training.steps - training.half, start=0, every=5, **options
    )
    training.run(model, optimizer, training.half, training.steps, projector.step)
    return projector.finish()


def no_transfer(start: Start) -> nn.Module:
    """Project without energy transfer."""
    return projected(start, energy_transfer=False)


def by_energy(start: Start) -> nn.Module:
    """Project without energy transfer, onto ranks by energy."""
    return projected(start, start.by_energy, energy_transfer=False)


def outputs(start: Start) -> nn.Module:
    """Project in the metric of the outputs, (E6) of `lrpet.projecting.outputs`, every 5 steps from half of the training on.

    Each projection looks at the outputs on one training batch. There is no energy transfer.
    """
    training = start.training
    model, optimizer = start.shared.at_half()
    layers = start.plan.bind(model)
    batches = training.batches(training.half)
    steps = itertools.count(1)

    @torch.no_grad()
    def project() -> None:
        tokens, _ = next(batches)
        if next(steps) % 5:
            return
        for name, moment in list(output_moments(model, layers, [inputs_of(tokens)])):
            rank = start.plan.ranks[name]
            layers[name].write_(project_outputs(layers[name].matrices(), moment, rank, energy_transfer=False).matrix)

    training.run(model, optimizer, training.half, training.steps, project)
    return start.compressed(model)


def retrained(start: Start) -> nn.Module:
    """Cut the dense network at half of the training by SVD, and train the factors."""
    return _trained_on(start, start.compressed(start.shared.half[0]))


def retrained_by_outputs(start: Start) -> nn.Module:
    """Cut the dense network at half of the training by what its outputs need, and train the factors."""
    return _trained_on(start, start.compressed_by_outputs(start.shared.half[0]))


def retrained_by_energy(start: Start) -> nn.Module:
    """Cut the dense network at half of the training by SVD to ranks by energy, and train the factors."""
    return _trained_on(start, start.compressed(start.shared.half[0], start.by_energy))


def _trained_on(start: Start, factors: nn.Module) -> nn.Module:
    start.training.run(factors, optimizer_of(factors), start.training.half, start.training.steps)
    return factors


def scratch(start: Start) -> nn.Module:
    """Train factors of the first weights' decomposition, "spectral initialisation", from the beginning."""
    factors = start.compressed(start.network)
    start.training.run(factors, optimizer_of(factors), 0, start.training.steps)
    return factors


def frobenius(start: Start) -> nn.Module:
    """Train factors from scratch with Frobenius decay: ½·λ·‖U·Vᵀ‖²_F in place of ½·λ·(‖U‖² + ‖V‖²).

    Khodak, Tenenholtz, Mackey, Fusi: Initialization and Regularization of Factorized Neural Layers, ICLR 2021.
    """
    factors = start.compressed(start.network)
    pairs = [[factors.get_parameter(f"{name}.{i}.weight") for i in (0, 1)] for name in start.layers]
    optimizer = optimizer_of(factors, undecayed=[weight for pair in pairs for weight in pair])

    @torch.no_grad()
    def decay() -> None:
        rate = optimizer.param_groups[0]["lr"] * DECAY
        for right, left in pairs:  # W = left·right; both changes are those of one moment
            changes = left.mT @ left @ right, left @ (right @ right.mT)
            right.sub_(changes[0], alpha=rate)
            left.sub_(changes[1], alpha=rate)

    start.training.run(factors, optimizer, 0, start.training.steps, decay)
    return factors


def pat(start: Start) -> nn.Module:
    """Train by torchao's PAT with `MinRankConstraint`, then factorise.

    A latent full-size weight takes the gradients that its truncation gets. The ranks come down by PAT's cubic schedule, from
    the end of the learning rate's warm-up to `HEALING` of the training; then the weights themselves are truncated. Both happen
    every 5 steps, as often as lrpet projects.
    """
    from torchao.prototype.pat.optim import PruneOptimizer

    model = copy.deepcopy(start.network)
    weights = {name: model.get_parameter(f"{name}.weight") for name in start.layers}
    base = optimizer_of(model, apart=list(weights.values()))
    by_rank: dict[float, list[Tensor]] = defaultdict(list)
    for name, weight in weights.items():
        full = min(weight.shape)
        by_rank[(full - start.plan.ranks[name] - 0.5) / full].append(weight)  # PAT rounds the number that it zeroes up
    for sparsity, some in by_rank.items():
        base.add_param_group(
            {
                "params": some, "weight_decay": DECAY, "group_type": "SVDGrouper", "prox_type": "MinRankConstraint",
                "min_sparsity": sparsity, "min_sparsity_schedule": True, "prox_freq": 5,
            }
        )  # fmt: skip
    healing = int(HEALING * start.training.steps)
    optimizer = PruneOptimizer(base, warmup_steps=start.training.warmup, healing_start_step=healing)
    start.training.run(model, optimizer, 0, start.training.steps)
    return start.compressed(model)


def slorr(start: Start) -> nn.Module:
    """Train with SLORR's regulariser, decoupled: W ← W − lr·λ·∇(‖W‖²_* / ‖W‖²_F), then cut by SVD.

    See `benchmarks.slorr` for the source.
    """
    return start.compressed(start.shared.regularised)


def _regularised(shared: Shared) -> nn.Module:
    training, model = shared.training, copy.deepcopy(shared.network)
    optimizer = optimizer_of(model)
    by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
    for name in lrpet.plan(model, EXAMPLE, keep=1.0, factorize_all=True).ranks:
        weight = model.get_parameter(f"{name}.weight")
        by_shape[weight.shape].append(weight)
    gradients: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def before() -> None:
        gradients.clear()
        for weights in by_shape.values():
            gradients.extend(zip(weights, hoyer_gradient(torch.stack(weights)), strict=True))

    @torch.no_grad()
    def after() -> None:
        for weight, gradient in gradients:
            weight.sub_(gradient, alpha=optimizer.param_groups[0]["lr"] * STRENGTH)

    training.run(model, optimizer, 0, training.steps, after, before=before)
    return model


def cut(start: Start) -> nn.Module:
    """Cut the dense network at its end by SVD, and do not train it."""
    return start.compressed(start.shared.dense)


def cut_by_outputs(start: Start) -> nn.Module:
    """Cut the dense network at its end by what its outputs need, and do not train it."""
    return start.compressed_by_outputs(start.shared.dense)


def dense(start: Start) -> nn.Module:
    """Train the dense network to the end."""
    return start.shared.dense


#: {name: how the arm's network comes to be}.
ARMS: dict[str, Callable[[Start], nn.Module]] = {
    each.__name__: each
    for each in (
        dense, cut, cut_by_outputs, projected, no_transfer, by_energy, outputs, retrained, retrained_by_outputs,
        retrained_by_energy, scratch, frobenius, pat, slorr,
    )
}  # fmt: skip
