"""The weights of a network that may be factorised, and what becomes of the layers that use them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from lrpet.layers.matrix import Shape, Unfolding, is_counted, shape_of, unsupported, weight_of
from lrpet.layers.observe import Layer
from lrpet.planning.costs import MatrixCost
from lrpet.planning.plan import LayerPlan

Include = Callable[[nn.Module, str], bool]


@dataclass(frozen=True)
class Fate:
    """What is decided for one layer."""

    rank: int | None
    reason: str
    cost: MatrixCost | None = None
    unfolding: Unfolding = "channel"
    batch_norm: str | None = None
    owns_weight: bool = True


@dataclass(frozen=True)
class Candidate:
    """A weight that may be factorised: that of one layer, or of all layers that share it."""

    layers: tuple[Layer, ...]
    unfolding: Unfolding

    @property
    def cost(self) -> MatrixCost:
        """Of all its uses."""
        return cost_of(self.layers, self.unfolding)

    def fates(self, rank: int | None, *, rectify: bool, factorize_all: bool) -> dict[str, Fate]:
        """{layer name: what becomes of it} if this weight gets `rank`, or stays dense by the allocator's choice."""
        if rank is None:
            return {
                layer.name: Fate(
                    None,
                    "its factors would cost as much, be no faster, or keep too little for their cost",
                    unfolding=self.unfolding,
                )
                for layer in self.layers
            }
        if not (factorize_all or self.cost.saves(rank)):
            why = f"factors of rank {rank} would cost as much or more"
            return {layer.name: Fate(None, why, unfolding=self.unfolding) for layer in self.layers}
        owner, *others = self.layers
        partner = owner.batch_norm if rectify and not others else None
        unpaired = "several layers share the weight" if others and owner.batch_norm else owner.unpaired
        reason = f"factorised; not rectified: {unpaired}" if rectify and unpaired else "factorised"
        fates = {owner.name: Fate(rank, reason, cost_of([owner], self.unfolding), self.unfolding, partner)}
        for layer in others:
            shared = f"factorised, sharing the weight of {owner.name}"
            fates[layer.name] = Fate(rank, shared, cost_of([layer], self.unfolding), self.unfolding, owns_weight=False)
        return fates


def candidates_of(layers: Sequence[Layer], unfoldings: Mapping[str, Unfolding]) -> dict[str, Candidate]:
    """The weights that may be factorised, by the name of the first layer that uses them."""
    found: dict[str, Candidate] = {}
    shared: set[str] = set()
    for layer in layers:
        if layer.name not in shared:
            users = (layer, *(other for other in layers if other.name in layer.shares_weight_with))
            shared.update(layer.shares_weight_with)
            found[layer.name] = Candidate(users, unfoldings.get(layer.name, "channel"))
    return found


def cost_of(layers: Sequence[Layer], unfolding: Unfolding) -> MatrixCost:
    """Of one weight in all the layers that use it."""
    shape = shape_of(layers[0].module, unfolding)
    positions = sum(layer.positions for layer in layers)
    first = sum(layer.spatial_positions for layer in layers) if unfolding == "spatial" else None
    return MatrixCost(shape.rows, shape.columns, positions, shape.groups, first)


def layer_plan(layer: Layer, fate: Fate) -> LayerPlan:
    """A layer's entry in the plan."""
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


def refusals(layers: list[Layer], include: Include | None, ranks: Mapping[str, int] | None) -> dict[str, str]:
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


def check_ranks(
    ranks: Mapping[str, int], candidates: Mapping[str, Candidate], layers: list[Layer], refused: Mapping[str, str]
) -> None:
    """Raise ValueError for a name in `ranks` that is no layer or cannot be factorised, and for a rank out of range."""
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
