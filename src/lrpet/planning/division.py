"""Dividing a plan's budget among its candidates: before training, and again by trained weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from torch import nn

from lrpet.layers.matrix import MatrixLayer
from lrpet.layers.wrapping import unwrapped
from lrpet.planning.allocators import divided
from lrpet.planning.candidate import Candidate, Ranks
from lrpet.planning.costs import MatrixCost, uniform_rank
from lrpet.planning.friendly import divided_friendly
from lrpet.planning.layer_plan import LayerPlan
from lrpet.planning.limits import MIN_SAVING
from lrpet.planning.measured import dense_times, together
from lrpet.planning.plan import Plan
from lrpet.planning.request import Request
from lrpet.planning.spectra import kept_energy
from lrpet.planning.spending import Spending
from lrpet.planning.times import predicted

Numbers = dict[str, list[float]]
"""{candidate: a number for its rank or singular value 1, 2, …}."""


def kept_energies(layers: Mapping[str, MatrixLayer]) -> Numbers:
    """Return {name: the fraction of its energy kept at rank 1, 2, …}."""
    return {name: kept_energy(layer) for name, layer in layers.items()}


def divide(
    plan: Plan,
    request: Request,
    model: nn.Module,
    allocate: str | Mapping[str, Any],
    *,
    energies: Callable[[Mapping[str, MatrixLayer]], Numbers] = kept_energies,
    agreed: Callable[[Numbers], Numbers] = lambda worths: worths,
) -> Plan:
    """Return `plan` with the ranks that `allocate` finds for the request, by the weights of `model` as they are.

    Among many processes, `energies` finds what layers keep together with the others, and `agreed` makes one of all worths.

    Raises ValueError if the budgets cannot be met, or `allocate` needs what is not there.
    """
    spending = spending_of(plan, request, model)
    keep, ranks = request.budget.keep, request.budget.ranks
    if ranks is not None:
        return _decided(plan, request, spending, dict(ranks), str(request.budget))
    if keep is not None:
        wanted: Ranks = {name: each.nearest(_uniform(each, keep)) for name, each in spending.candidates.items()}
        return _decided(plan, request, spending, wanted, str(request.budget))
    spending.check_possible()
    if allocate == "sensitivity":
        if request.worths is None:
            raise ValueError("allocate='sensitivity' needs batches and a loss: give both to lrpet.plan")
        full = {name: each.cost.full_rank for name, each in spending.candidates.items()}
        allocate = agreed(request.worths(model, at_ranks(plan, request, full)))
    kept = cache(lambda: energies(_candidates(plan, request, model)))
    if request.limits.multiple_of == "auto":
        spending, chosen, how = divided_friendly(spending, lambda narrowed: divided(narrowed, allocate, kept))
    else:
        chosen, how = divided(spending, allocate, kept)
    return _decided(plan, request, spending, chosen, f"{request.budget} ({how})")


def at_ranks(plan: Plan, request: Request, ranks: Mapping[str, int]) -> Plan:
    """Return `plan` with its candidates factorised at these ranks, worth it or not; candidates not named stay dense."""
    return replace(plan, layers=tuple(_entries(plan, request, dict(ranks), {})), request=None)


def spending_of(plan: Plan, request: Request, model: nn.Module) -> Spending:
    """Return the candidates of a request with their costs, and what they may cost together."""
    totals: dict[str, float] = dict(plan.totals)
    if request.times is not None:
        totals["latency"] = request.times.network
    least = _least_savings(request, totals)
    users = request.users(plan.layers)
    modules = dict(unwrapped(model).named_modules())
    candidates = {
        name: Candidate(
            cost := _together(users[name]),
            request.limits.ranks(cost.full_rank),
            fixed,
            may_be_dense=not request.limits.factorize_all,
            itemsize=_itemsize(modules[name]),
            least_savings=least,
            milliseconds=None if request.times is None else together(request.times, users[name]),
        )
        for name, fixed in request.candidates.items()
    }
    limits = request.budget.limits(totals)
    return Spending(candidates, {unit: totals[unit] for unit in limits}, limits, _dense_parts(plan, request, totals))


def _uniform(candidate: Candidate, keep: float) -> int:
    return uniform_rank(candidate.cost.full_rank, keep)


def _candidates(plan: Plan, request: Request, model: nn.Module) -> dict[str, MatrixLayer]:
    """Return {candidate: its layer}, with the batch norm that it is rectified with."""
    norms = {name: request.batch_norms.get(name) for name in request.candidates}
    layers = tuple(
        replace(layer, rank=1, batch_norm=norms[layer.name])
        for layer in plan.layers
        if layer.name in request.candidates
    )
    return Plan(layers, "").bind(model)


def _together(layers: list[LayerPlan]) -> MatrixCost:
    costs = [layer.cost for layer in layers]
    first = [cost.positions if cost.first_positions is None else cost.first_positions for cost in costs]
    differs = any(cost.first_positions is not None for cost in costs)
    positions = sum(cost.positions for cost in costs)
    return replace(costs[0], positions=positions, first_positions=sum(first) if differs else None)


def _least_savings(request: Request, totals: Mapping[str, float]) -> dict[str, float]:
    """Return {unit: what factorising a layer must save}. The default asks nothing of `keep`, the paper's setting."""
    fraction = request.limits.min_saving
    units = [unit for unit in request.budget.divisible if unit != "latency"] or ["macs"]
    if fraction is None:
        fraction = MIN_SAVING if request.budget.divisible else 0.0
    return {unit: fraction * totals.get(unit, 0.0) for unit in units} if fraction else {}


def _itemsize(module: nn.Module) -> int:
    weight = getattr(module, "in_proj_weight", None)
    weight = module.weight if weight is None else weight
    return int(weight.element_size())  # type: ignore[operator]


def _dense_parts(plan: Plan, request: Request, totals: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Return {unit: {part that stays dense: its cost}}: layers by name, and what is in no layer together."""
    dense = [layer for layer in plan.layers if (layer.shares or layer.name) not in request.candidates]
    macs = {f"{layer.name or layer.kind} ({layer.reason})": float(layer.macs_dense) for layer in dense}
    params = {f"{layer.name or layer.kind} ({layer.reason})": float(layer.params_dense) for layer in dense}
    rest_macs = totals.get("macs", 0) - sum(layer.macs_dense for layer in plan.layers)
    rest_params = totals.get("params", 0) - sum(layer.params_dense for layer in plan.layers)
    return {
        "macs": {**macs, "products outside layers, as those of attention": rest_macs},
        "params": {**params, "norms and other small parameters": rest_params},
        "latency": {} if request.times is None else dense_times(request.times, plan, request),
    }


def _decided(plan: Plan, request: Request, spending: Spending, wanted: Ranks, budget: str) -> Plan:
    """Return the plan with one decision, and its one reason, for each candidate."""
    ranks: dict[str, int] = {}
    reasons: dict[str, str] = {}
    for name, rank in wanted.items():
        candidate = spending.candidates[name]
        if rank is not None and candidate.objection(rank) is None:
            ranks[name] = rank
        else:
            reasons[name] = candidate.why_dense(rank)
    layers = tuple(_entries(plan, request, ranks, reasons))
    timing = None if request.times is None else predicted(request.times, layers)
    again = request if request.by_weights else None
    return replace(plan, layers=layers, budget=budget, request=again, timing=timing)


def _entries(plan: Plan, request: Request, ranks: Mapping[str, int], reasons: Mapping[str, str]) -> list[LayerPlan]:
    users = request.users(plan.layers)
    entries = []
    for layer in plan.layers:
        owner = layer.shares or layer.name
        if owner not in request.candidates:
            entries.append(layer)
        elif owner not in ranks:
            entries.append(layer.dense(reasons.get(owner, "not chosen")))
        elif layer.shares is not None:
            entries.append(layer.at(ranks[owner], batch_norm=None, reason=f"factorised, sharing the weight of {owner}"))
        else:
            partner, reason = _rectification(layer.name, request, shared=len(users[owner]) > 1)
            entries.append(layer.at(ranks[owner], batch_norm=partner, reason=reason))
    return entries


def _rectification(name: str, request: Request, *, shared: bool) -> tuple[str | None, str]:
    """Return the batch norm that a factorised layer is projected with, and the reason to print."""
    partner, unpaired = request.batch_norms.get(name), request.unpaired.get(name)
    if not request.rectify:
        return None, "factorised"
    if shared and partner is not None:
        partner, unpaired = None, "several layers share the weight"
    return partner, "factorised" if unpaired is None else f"factorised; not rectified: {unpaired}"
