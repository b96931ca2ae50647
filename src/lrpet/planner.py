"""`lrpet.plan`: from a network and a budget to a `Plan`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import torch
from torch import nn

from lrpet.matrix import (
    Shape,
    Unfolding,
    is_counted,
    row_scale,
    scale_of_rows,
    shape_of,
    unfold,
    unsupported,
    weight_of,
)
from lrpet.plan import LayerPlan, Plan
from lrpet.profile import Layer, profile
from lrpet.ranks import MatrixCost, uniform_keep, uniform_rank, uniform_ranks

Include = Callable[[nn.Module, str], bool]


def plan(
    model: nn.Module,
    example_inputs: Any,
    *,
    keep: float | None = None,
    macs: float | None = None,
    params: float | None = None,
    ranks: Mapping[str, int] | None = None,
    include: Include | None = None,
    unfolding: Unfolding | Literal["best"] | Mapping[str, Unfolding] = "channel",
    rectify: bool = True,
    factorize_all: bool = False,
) -> Plan:
    """Decide which layers of `model` become low-rank, and at which rank, from exactly one budget.

    Args:
        model: Any network; left as it was found.
        example_inputs: What its forward takes: a tensor, a tuple of positional or a mapping of keyword arguments. Costs are
            those of this input: give a batch of one for the cost of one example.
        keep: Fraction of the rank of every layer to keep, in (0, 1]: r = max(1, ⌊s·keep⌋) with s = min(rows, columns), of
            each group. The paper's pruning ratio is p = 1 − keep.
        macs: Fraction, in (0, 1], of the dense network's multiply-adds that the compact one may have. Met by the uniform
            `keep` that comes closest from below.
        params: Likewise for the parameters (weights and biases of convolutions and linears).
        ranks: {layer name: rank}; layers not named stay dense. Of layers that share a weight, name the first.
        include: `(module, name) -> bool` chooses layers. By default every convolution, linear and attention, except the
            final classifier (a linear that is the last layer to run) and what is frozen.
        unfolding: How the kernel of a two-dimensional convolution is divided: "channel", k×k then 1×1, as in the paper;
            "spatial", k×1 then 1×k; "best", for every layer the one that keeps more energy of the weight as it is now at
            the same multiply-adds, which says little before training; or {layer name: one of the first two}.
        rectify: Record each layer's batch norm, to be folded in when it is projected.
        factorize_all: Factorise even where the factors cost as much as the dense layer or more.

    Raises:
        ValueError: none or several budgets; a budget out of range or impossible; an unknown layer, one that cannot be
            factorised, or a rank out of range in `ranks`; an unknown unfolding.
    """
    budgets = {"keep": keep, "macs": macs, "params": params, "ranks": ranks}
    given = [name for name, value in budgets.items() if value is not None]
    if len(given) != 1:
        raise ValueError(f"give exactly one of keep, macs, params and ranks; got {' and '.join(given) or 'none'}")
    if ranks is not None and include is not None:
        raise ValueError("give ranks or include, not both: ranks names the layers itself")
    for name in ("keep", "macs", "params"):
        value = budgets[name]
        if value is not None and not (isinstance(value, int | float) and 0 < value <= 1):
            raise ValueError(f"{name}={value!r} must be a fraction above 0 and at most 1 (of the dense network's)")

    layers = profile(model, example_inputs)
    refused = _refused(layers, include, ranks)
    unfoldings = _unfoldings(unfolding, model, layers, budgets)
    candidates = _candidates([layer for layer in layers if layer.name not in refused], unfoldings)
    costs = {name: candidate.cost for name, candidate in candidates.items()}

    def decided(wanted: Mapping[str, int]) -> tuple[LayerPlan, ...]:
        fates = dict.fromkeys((layer.name for layer in layers), _Fate(None, ""))
        fates |= {name: _Fate(None, why) for name, why in refused.items()}
        for name, rank in wanted.items():
            fates |= candidates[name].fates(rank, rectify=rectify, factorize_all=factorize_all)
        return tuple(_layer_plan(layer, fates[layer.name]) for layer in layers)

    if ranks is not None:
        _check_ranks(ranks, candidates, layers, refused)
        chosen, budget = dict(ranks), "ranks"
    elif keep is not None:
        chosen, budget = uniform_ranks(costs, keep), f"keep={keep:g}"
    else:
        total = "macs" if macs is not None else "params"
        fraction = macs if macs is not None else params
        assert fraction is not None

        def cost(wanted: Mapping[str, int]) -> int:
            return sum(getattr(layer, total) for layer in decided(wanted))

        what = "multiply-adds" if total == "macs" else "parameters"
        found = uniform_keep(costs, fraction * cost({}), cost, what=what)
        chosen, budget = uniform_ranks(costs, found), f"{total}={fraction:g} (uniform keep {found:.4g})"
    return Plan(layers=decided(chosen), budget=budget)


@dataclass(frozen=True)
class _Fate:
    """What is decided for one layer."""

    rank: int | None
    reason: str
    cost: MatrixCost | None = None
    unfolding: Unfolding = "channel"
    batch_norm: str | None = None
    owns_weight: bool = True


@dataclass(frozen=True)
class _Candidate:
    """A weight that may be factorised: that of one layer, or of all layers that share it."""

    layers: tuple[Layer, ...]
    unfolding: Unfolding

    @property
    def cost(self) -> MatrixCost:
        """Of all its uses."""
        return _cost(self.layers, self.unfolding)

    def fates(self, rank: int, *, rectify: bool, factorize_all: bool) -> dict[str, _Fate]:
        """{layer name: what becomes of it} if this weight gets `rank`."""
        if not (factorize_all or self.cost.saves(rank)):
            why = f"factors of rank {rank} would cost as much or more"
            return {layer.name: _Fate(None, why, unfolding=self.unfolding) for layer in self.layers}
        owner, *others = self.layers
        partner = owner.batch_norm if rectify and not others else None
        unpaired = "several layers share the weight" if others and owner.batch_norm else owner.unpaired
        reason = f"factorised; not rectified: {unpaired}" if rectify and unpaired else "factorised"
        fates = {owner.name: _Fate(rank, reason, _cost([owner], self.unfolding), self.unfolding, partner)}
        for layer in others:
            shared = f"factorised, sharing the weight of {owner.name}"
            fates[layer.name] = _Fate(rank, shared, _cost([layer], self.unfolding), self.unfolding, owns_weight=False)
        return fates


def _candidates(layers: Sequence[Layer], unfoldings: Mapping[str, Unfolding]) -> dict[str, _Candidate]:
    """The weights that may be factorised, by the name of the first layer that uses them."""
    found: dict[str, _Candidate] = {}
    shared: set[str] = set()
    for layer in layers:
        if layer.name not in shared:
            users = (layer, *(other for other in layers if other.name in layer.shares_weight_with))
            shared.update(layer.shares_weight_with)
            found[layer.name] = _Candidate(users, unfoldings.get(layer.name, "channel"))
    return found


def _cost(layers: Sequence[Layer], unfolding: Unfolding) -> MatrixCost:
    shape = shape_of(layers[0].module, unfolding)
    positions = sum(layer.positions for layer in layers)
    first = sum(layer.spatial_positions for layer in layers) if unfolding == "spatial" else None
    return MatrixCost(shape.rows, shape.columns, positions, shape.groups, first)


def _layer_plan(layer: Layer, fate: _Fate) -> LayerPlan:
    shape = shape_of(layer.module, fate.unfolding) if is_counted(layer.module) else Shape(0, 0)
    macs, params = layer.macs, layer.params
    if fate.cost is not None and fate.rank is not None:
        macs = fate.cost.macs(fate.rank)
        params -= (fate.cost.params() - fate.cost.params(fate.rank)) if fate.owns_weight else 0
    return LayerPlan(
        name=layer.name,
        kind=type(layer.module).__name__,
        rows=shape.rows,
        columns=shape.columns,
        groups=shape.groups,
        unfolding=fate.unfolding,
        rank=fate.rank,
        macs_dense=layer.macs,
        macs=macs,
        params_dense=layer.params,
        params=params,
        batch_norm=fate.batch_norm,
        reason=fate.reason,
    )


def _refused(layers: list[Layer], include: Include | None, ranks: Mapping[str, int] | None) -> dict[str, str]:
    """{layer name: why it stays dense}, for every layer that is not to be, or cannot be, factorised."""
    ran = [layer.name for layer in layers if layer.calls and is_counted(layer.module)]
    reasons: dict[str, str] = {}
    for layer in layers:
        if (why := unsupported(layer.module)) is not None:
            reasons[layer.name] = why
        elif layer.used_elsewhere:
            reasons[layer.name] = "its weight is used outside its own forward"
        elif not layer.calls:
            reasons[layer.name] = "did not run in the observed forward pass"
        elif ranks is not None:
            if not ranks.keys() & {layer.name, *layer.shares_weight_with}:
                reasons[layer.name] = "not among the given ranks"
        elif include is not None:
            if not include(layer.module, layer.name):
                reasons[layer.name] = "not included"
        elif isinstance(layer.module, nn.Linear) and layer.name == ran[-1]:
            reasons[layer.name] = "not included: the classifier, the last layer to run"
        elif not weight_of(layer.module).requires_grad:
            reasons[layer.name] = "frozen (its weight does not require gradients)"
    alone = dict(reasons)
    for layer in layers:
        others = [other for other in layers if other.name in layer.shares_weight_with]
        blocked = [other for other in others if other.name in alone or type(other.module) is not type(layer.module)]
        if layer.name not in alone and blocked:
            other = blocked[0]
            why = alone.get(other.name, f"{type(other.module).__name__} is another kind of layer")
            reasons[layer.name] = f"shares its weight with {other.name or '(root)'}: {why}"
    return reasons


def _check_ranks(
    ranks: Mapping[str, int], candidates: Mapping[str, _Candidate], layers: list[Layer], refused: Mapping[str, str]
) -> None:
    names = [layer.name for layer in layers]
    for name, rank in ranks.items():
        if name not in names:
            raise ValueError(f"ranks names {name!r}, which is no layer of this network; its layers: {', '.join(names)}")
        if name in refused:
            raise ValueError(f"ranks names {name!r}, which cannot be factorised: {refused[name]}")
        if name not in candidates:
            (owner,) = [first for first, each in candidates.items() if name in [layer.name for layer in each.layers]]
            raise ValueError(f"ranks names {name!r}, which shares the weight of {owner!r}: give the rank to that one")
        full = candidates[name].cost.full_rank
        if not isinstance(rank, int) or isinstance(rank, bool) or not 1 <= rank <= full:
            raise ValueError(f"ranks gives {name!r} the rank {rank!r}; it must be a whole number from 1 to {full}")


def _unfoldings(
    wanted: str | Mapping[str, Unfolding], model: nn.Module, layers: list[Layer], budgets: Mapping[str, Any]
) -> dict[str, Unfolding]:
    """The unfolding of every layer that has a choice: a two-dimensional convolution with more than one row and column."""
    free = {
        layer.name: layer
        for layer in layers
        if isinstance(layer.module, nn.Conv2d)
        and min(layer.module.kernel_size) > 1
        and unsupported(layer.module) is None
    }
    if isinstance(wanted, Mapping):
        for name, unfolding in wanted.items():
            if unfolding not in get_args(Unfolding):
                raise ValueError(f"unfolding gives {name!r} {unfolding!r}; it must be channel or spatial")
            if name not in free:
                raise ValueError(
                    f"unfolding names {name!r}, which is no two-dimensional convolution with a kernel above 1×1 in this "
                    f"network; those are: {', '.join(free) or 'none'}"
                )
        return dict(wanted)
    if wanted == "best":
        if budgets["ranks"] is not None:
            raise ValueError("unfolding='best' compares at a budget; with ranks, give {layer name: unfolding}")
        return {name: _best_unfolding(layer, model, budgets) for name, layer in free.items()}
    if wanted not in get_args(Unfolding):
        raise ValueError(f"unfolding={wanted!r} must be channel, spatial, best or {{layer name: unfolding}}")
    return dict.fromkeys(free, cast(Unfolding, wanted))


def _best_unfolding(layer: Layer, model: nn.Module, budgets: Mapping[str, Any]) -> Unfolding:
    """The unfolding that keeps more energy at the multiply-adds that the budget, taken for this layer, allows."""
    fraction = budgets["macs"] or budgets["params"]
    channel = _cost([layer], "channel")
    allowed = fraction * channel.macs() if fraction else channel.macs(uniform_rank(channel.full_rank, budgets["keep"]))
    alpha = None if layer.batch_norm is None else row_scale(model.get_submodule(layer.batch_norm))
    kept: dict[Unfolding, float] = {}
    for unfolding in get_args(Unfolding):
        cost = _cost([layer], unfolding)
        rank = min(cost.full_rank, int(allowed // cost.macs(1))) if cost.macs(1) else 0
        matrices = unfold(layer.module, unfolding).detach().float()
        if alpha is not None:
            matrices = scale_of_rows(alpha, layer.module, unfolding)[..., None] * matrices
        kept[unfolding] = float(torch.linalg.svdvals(matrices)[:, :rank].square().sum())
    return max(kept, key=kept.__getitem__)
