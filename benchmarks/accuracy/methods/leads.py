"""Ways to make LRPET better, each alone: they begin with one dense network, half-way through its training or as they say.

Ranks are those of that network by energy, unless it says otherwise. They are compared on held-out images: with `lead_base`,
which divides kernels as in the paper, or with `lead_best`, which divides them as lrpet does by default.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

import lrpet
from benchmarks.accuracy.methods.factors_frobenius import decaying
from benchmarks.accuracy.run import BeforeStep, Run
from lrpet.layers.matrix import MatrixLayer
from lrpet.planning.spectra import kept_energy

#: How the budget is divided, see `_plan`.
Division = Literal["energy", "squares", "cubes", "uniform"]


def train(
    run: Run,
    *,
    ranks: Division = "energy",
    unfolding: str = "channel",
    dense_until: float = 0.5,
    factors_from: float | None = None,
    frobenius: bool = False,
    also: Literal["tangent", "taught", "divided again"] | None = None,
    **changes: Any,
) -> nn.Module:
    """Train the dense network for a part of the epochs, and project it, or train its factors, in the other part.

    Args:
        run: The cell.
        ranks: How the budget is divided: "energy", "squares", "cubes" or "uniform", see `_plan`.
        unfolding: How kernels are divided, see `lrpet.plan`; only with ranks by energy.
        dense_until: The fraction of the training until which the network is dense.
        factors_from: The fraction of the training from which the factors themselves are trained.
        frobenius: Whether these factors have Frobenius decay.
        also: What is done besides. "tangent": the momentum is projected onto the tangent space of the low-rank matrices,
            after each projection. "taught": the moving average of the dense network's weights is the teacher of the other
            part. "divided again": the budget is divided again, until ranks settle, see `_settled`.
        changes: Those to the trainer's defaults.
    """
    epochs, dense = run.cell.epochs, max(1, int(dense_until * run.cell.epochs))
    network = run.dense_part(dense)
    divided = partial(_plan, run, ranks=ranks, unfolding=unfolding)
    if also == "divided again":
        network, plan, dense = _settled(run, network, divided, first=dense)
    else:
        plan = divided(network)
    if also == "taught":
        changes["teacher"] = str(_teacher(run, dense))
    until = epochs if factors_from is None else round(factors_from * epochs)
    if until > dense:
        before_step = _tangent(plan.bind(network)) if also == "tangent" else None
        options = {"every": 5, "start": 0.0, **changes}
        network = run.fit("train", network, plan=plan, before_step=before_step, first=dense, last=until, **options)
    else:
        _project(network, plan)
    compact = lrpet.factorize(network, plan)
    if until == epochs:
        return compact
    return run.fit("factors", compact, first=until, before_step=decaying(compact, plan) if frobenius else None)


def _teacher(run: Run, epochs: int) -> Path:
    """Save the moving average of the dense network's weights after so many epochs, and return its folder.

    The dense network is trained once more for it, which counts for nothing: the average could be had from the first time.
    """
    folder = run.work / run.cell.name / "teacher"
    network = run.with_seed(run.cell.seed).dense_part(epochs, ema=EMA)
    lrpet.save(lrpet.factorize(network, lrpet.plan(network, run.task.example, ranks={})), folder, overwrite=True)
    return folder


def _project(network: nn.Module, plan: lrpet.Plan) -> None:
    """Project once, by the settings of LRPET."""
    lrpet.Projector(network, plan, start=0, every=1).project()


def _settled(
    run: Run, network: nn.Module, divided: Callable[[nn.Module], lrpet.Plan], *, first: int
) -> tuple[nn.Module, lrpet.Plan, int]:
    """Divide the budget again after each of some epochs, until ranks settle; return network, plan and the next epoch.

    Projected weights keep no energy for other ranks. So weights are projected, trained freely for an epoch, and divided. This
    ends where no rank changes, or half-way through the rest of the training.
    """
    plan = divided(network)
    for epoch in range(first, (first + run.cell.epochs) // 2):
        _project(network, plan)
        network = run.fit(f"free-{epoch}", network, first=epoch, last=epoch + 1)
        before, plan, first = plan.ranks, divided(network), epoch + 1
        if plan.ranks == before:
            break
    return network, plan, first


def _plan(run: Run, network: nn.Module, *, ranks: Division, unfolding: str) -> lrpet.Plan:
    """Divide the run's multiply-adds by the weights of `network`.

    "energy" keeps the largest sum of the layers' kept fractions. "squares" and "cubes" prune the least sum of the squares or
    cubes of pruned fractions, so that no layer is starved. "uniform" keeps the run's ranks.
    """
    if ranks == "uniform":
        return run.plan
    if ranks == "energy":
        return run.plan_by_energy(network, unfolding=unfolding)
    power = {"squares": 2, "cubes": 3}[ranks]
    layers = lrpet.plan(network, run.task.example, keep=1.0, factorize_all=True).bind(network)
    worths = {name: _worths(layer, power) for name, layer in layers.items()}
    return run.divided(network, worths)


def _worths(layer: MatrixLayer, power: int) -> list[float]:
    """Return by how much each rank lowers the pruned fraction's power."""
    left = [1.0, *(max(0.0, 1 - kept) ** power for kept in kept_energy(layer))]
    return [before - after for before, after in itertools.pairwise(left)]


def _tangent(layers: Mapping[str, MatrixLayer]) -> BeforeStep:
    """Return what projects the momentum of W = U·Σ·Vᵀ after each projection: B ← U·Uᵀ·B + (I − U·Uᵀ)·B·V·Vᵀ.

    It goes without rectification, where the bases of projections are those of W.
    """

    @torch.no_grad()
    def project(projector: lrpet.Projector, optimizer: torch.optim.Optimizer) -> None:
        if projector.last is None or projector.last.step != projector.steps:
            return
        bases: dict[str, Tensor] = projector.state_dict()["bases"]
        for name, layer in layers.items():
            buffer = optimizer.state[layer.weight]["momentum_buffer"]
            weight, momentum = layer.matrices().float(), layer.matrices(buffer).float()
            wide = weight.shape[1] <= weight.shape[2]
            if not wide:
                weight, momentum = weight.mT, momentum.mT
            basis = bases[name]
            inside = basis @ (basis.mT @ momentum)
            rows = basis.mT @ weight  # they span the rows of W
            outside = (momentum - inside) @ rows.mT @ torch.linalg.solve(rows @ rows.mT, rows)
            new = inside + outside
            buffer.copy_(layer.tensor(new if wide else new.mT))

    return project


#: How much of the moving average of weights a step leaves.
EMA = 0.998

#: {method: (its title, its arguments of `train`)}.
LEADS: dict[str, tuple[str, dict[str, Any]]] = {
    "lead_base": ("LRPET from one half-trained network, ranks by energy", {}),
    "lead_uniform": ("LRPET from one half-trained network, uniform ranks", {"ranks": "uniform"}),
    "lead_uniform_no_transfer": ("uniform ranks, no energy transfer", {"ranks": "uniform", "energy_transfer": False}),
    "lead_squares": ("ranks by squares of pruned energy", {"ranks": "squares"}),
    "lead_cubes": ("ranks by cubes of pruned energy", {"ranks": "cubes"}),
    "lead_no_transfer": ("no energy transfer", {"energy_transfer": False}),
    "lead_no_rectification": ("no rectification", {"rectify": False}),
    "lead_neither": ("neither", {"energy_transfer": False, "rectify": False}),
    "lead_spatial": ("kernels divided as 3×1 and 1×3", {"unfolding": "spatial"}),
    "lead_best": ("LRPET's default: kernels divided as keeps most energy", {"unfolding": "best"}),
    "lead_best_no_rectification": (
        "kernels divided as keeps most energy, no rectification",
        {"unfolding": "best", "rectify": False},
    ),
    "lead_best_no_transfer": (
        "kernels divided as keeps most energy, no energy transfer",
        {"unfolding": "best", "energy_transfer": False},
    ),
    "lead_best_neither": (
        "kernels divided as keeps most energy, neither",
        {"unfolding": "best", "energy_transfer": False, "rectify": False},
    ),
    "lead_best_divided_again": (
        "ranks divided again until they settle, kernels as keeps most energy",
        {"unfolding": "best", "also": "divided again"},
    ),
    "lead_best_outputs": (
        "metric of the outputs, kernels as keeps most energy",
        {"unfolding": "best", "calibration": 128},
    ),
    "lead_best_tangent": (
        "momentum in the tangent space, no rectification, kernels as keeps most energy",
        {"unfolding": "best", "also": "tangent", "rectify": False},
    ),
    "lead_best_ema": ("moving average of the weights, kernels as keeps most energy", {"unfolding": "best", "ema": EMA}),
    "lead_best_taught": (
        "moving average at half as teacher, kernels as keeps most energy",
        {"unfolding": "best", "also": "taught"},
    ),
    "lead_best_from_0.75": (
        "projected from 0.75 on, kernels as keeps most energy",
        {"unfolding": "best", "start": 0.5},
    ),
    "lead_best_from_0.25": (
        "projected from 0.25 on, kernels as keeps most energy",
        {"unfolding": "best", "dense_until": 0.25},
    ),
    "lead_best_tail_0.5": ("tail halved, kernels as keeps most energy", {"unfolding": "best", "tail_scale": 0.5}),
    "lead_outputs": ("metric of the outputs", {"calibration": 128}),
    "lead_tangent": ("momentum in the tangent space, no rectification", {"also": "tangent", "rectify": False}),
    "lead_every_1": ("projected every step", {"every": 1}),
    "lead_every_20": ("projected every 20 steps", {"every": 20}),
    "lead_tail_0.5": ("tail halved", {"tail_scale": 0.5}),
    "lead_ema": ("moving average of the weights", {"ema": EMA}),
    "lead_factors": ("factors from half on", {"factors_from": 0.5}),
    "lead_factors_frobenius": (
        "factors with Frobenius decay from half on",
        {"factors_from": 0.5, "frobenius": True},
    ),
    "lead_factors_squares": ("factors from half on, ranks by squares", {"factors_from": 0.5, "ranks": "squares"}),
    "lead_factors_0.6": ("factors from 0.6 on", {"factors_from": 0.6}),
    "lead_factors_0.8": ("factors from 0.8 on", {"factors_from": 0.8}),
}

METHODS: dict[str, Callable[[Run], nn.Module]] = {
    name: partial(train, **arguments) for name, (_, arguments) in LEADS.items()
}
