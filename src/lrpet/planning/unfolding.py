"""The division of each convolution's kernel between its two factors."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast, get_args

from torch import nn

from lrpet.layers.kinds import layer_of
from lrpet.layers.matrix import MatrixLayer, Unfolding
from lrpet.layers.observe import Observation, Observed
from lrpet.planning.budget import Budget
from lrpet.planning.costs import MatrixCost, uniform_rank
from lrpet.planning.spectra import energies
from lrpet.planning.times import Times

#: What keeps more energy at the same cost, if weights were random.
BY_SHAPE = "by shape"
#: Points of the integral over singular values.
POINTS = 512


def automatic(budget: Budget, allocate: Any) -> str:
    """Return what "auto" is: "by shape" where a cost is budgeted, and no worths or ratios of channel pairs are given.

    At equal multiply-adds spatial pairs keep more energy and are as fast; RESULTS.md has what that is worth in accuracy.
    """
    return BY_SHAPE if budget.divisible and isinstance(allocate, str) else "channel"


def kept_fraction(budget: Budget, seen: Observation, times: Times | None) -> float | None:
    """Return the tightest fraction of the cost, or of the ranks, that the budget leaves; None if it names none."""
    if budget.keep is not None:
        return budget.keep
    network = math.inf if times is None else times.network  # before measuring, nothing depends on it
    totals = {"macs": seen.macs, "params": seen.params, "bytes": seen.bytes, "latency": network}
    given = {unit: value for unit, value in budget.divisible.items() if totals.get(unit)}
    return min((value if value <= 1 else value / totals[unit] for unit, value in given.items()), default=None)


def unfoldings_of(
    layers: Sequence[Observed],
    wanted: str | Mapping[str, Unfolding],
    model: nn.Module,
    *,
    kept: float | None,
    of_rank: bool,
    times: Times | None = None,
) -> dict[str, Unfolding]:
    """Return the unfolding of every layer that has a choice: a two-dimensional convolution with a kernel above 1×1.

    `wanted` is one unfolding for all, {layer name: unfolding}, "best" or `BY_SHAPE`. The best keeps more energy at a fraction
    `kept` of the layer's multiply-adds, or of its time where times are known; with `of_rank`, at those of the channel
    unfolding at this fraction of its rank.

    Raises ValueError for an unknown unfolding or layer, and for "best" without a fraction.
    """
    free = {layer.name: layer for layer in layers if layer.layer is not None and spatial_of(layer.layer) is not None}
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
    if wanted in ("best", BY_SHAPE):
        if kept is None:
            raise ValueError(
                "unfolding='best' compares at a fraction of the cost; with ranks, give {layer name: unfolding}"
            )
        weighed = None if wanted == BY_SHAPE else model
        return {name: _best(layer, weighed, kept, of_rank=of_rank, times=times) for name, layer in free.items()}
    if wanted not in get_args(Unfolding):
        raise ValueError(f"unfolding={wanted!r} must be auto, channel, spatial, best or {{layer name: unfolding}}")
    return dict.fromkeys(free, cast(Unfolding, wanted))


def spatial_of(layer: MatrixLayer) -> MatrixLayer | None:
    """Return the layer in the spatial unfolding; None where it has no such choice, or cannot be factorised."""
    module = layer.module
    if not isinstance(module, nn.Conv2d) or min(module.kernel_size) == 1 or layer.refusal() is not None:
        return None
    spatial = layer_of(module, layer.name, unfolding="spatial")
    return None if spatial is None or spatial.unfolding != "spatial" else spatial


def _best(
    layer: Observed, model: nn.Module | None, fraction: float, *, of_rank: bool, times: Times | None
) -> Unfolding:
    """Return what keeps more energy of the weight; without a model, of a random weight of its shape.

    Where no rank of either is as cheap as the fraction says, the two are compared at the cost of the cheaper.
    """
    costs = {unfolding: cost_of([layer], unfolding) for unfolding in get_args(Unfolding)}
    full = {unfolding: cost.full_rank for unfolding, cost in costs.items()}

    def spent(unfolding: Unfolding, rank: int | None) -> float:
        return costs[unfolding].macs(rank) if times is None else times.milliseconds(layer.name, rank, unfolding)

    try:
        cheapest = min(spent(unfolding, 1) for unfolding in costs)
    except KeyError:  # it was not measured in both
        return "channel"
    allowed = (
        spent("channel", uniform_rank(full["channel"], fraction)) if of_rank else fraction * spent("channel", None)
    )
    kept: dict[Unfolding, float] = {}
    for unfolding, cost in costs.items():
        rank = bisect_right(range(1, full[unfolding] + 1), max(allowed, cheapest), key=partial(spent, unfolding))
        if model is None:
            kept[unfolding] = kept_of_random(cost.rows // cost.groups, cost.columns, rank)
            continue
        norm = None if layer.batch_norm is None else model.get_submodule(layer.batch_norm)
        bound = layer_of(layer.module, layer.name, unfolding=unfolding, batch_norm=norm)
        assert bound is not None
        kept[unfolding] = float(energies(bound, relative=True)[:, :rank].sum())
    return max(kept, key=kept.__getitem__)


def kept_of_random(rows: int, columns: int, rank: int) -> float:
    """Return the fraction of its energy that a large matrix of independent entries keeps at a rank.

    Squared singular values are as 1 + λ + 2√λ·cos θ, with λ the ratio of the sides, by the law of Marchenko and Pastur (1967).
    In θ their density is 2·sin²θ / (π·(1 + λ + 2√λ·cos θ)), and that of their energy 2·sin²θ / π.
    """
    ratio, wanted = min(rows, columns) / max(rows, columns), rank / min(rows, columns)
    share = energy = 0.0
    for point in range(POINTS):
        angle = math.pi * (point + 0.5) / POINTS
        weight = 2 * math.sin(angle) ** 2 / POINTS
        part = weight / (1 + ratio + 2 * math.sqrt(ratio) * math.cos(angle))
        if share + part >= wanted:
            return energy + weight * (wanted - share) / part
        share, energy = share + part, energy + weight
    return 1.0


def cost_of(layers: Sequence[Observed], unfolding: Unfolding) -> MatrixCost:
    """Return the cost of one weight in all the layers that use it."""
    layer = layers[0].at(unfolding)
    shape = layer.shape
    positions = sum(each.positions(unfolding) for each in layers)
    first = sum(each.first_positions(unfolding) for each in layers)
    return MatrixCost(
        shape.rows, shape.columns, positions, shape.groups, first if first != positions else None, layer.extra_params
    )
