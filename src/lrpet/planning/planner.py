"""`lrpet.plan`: from a network and a budget to a `Plan`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal, get_args

from torch import nn

from lrpet.latency.table import LatencyTable
from lrpet.layers.matrix import Unfolding, weight_of
from lrpet.layers.observe import Layer, profile
from lrpet.planning.allocators import Allocator, divided
from lrpet.planning.budgets import UNITS, Options, Spending
from lrpet.planning.candidates import Candidate, Fate, Include, candidates_of, check_ranks, layer_plan, refusals
from lrpet.planning.costs import allowed_ranks, nearest_rank, uniform_rank
from lrpet.planning.plan import LayerPlan, Plan
from lrpet.planning.unfolding import kept_energy, unfoldings_of


def plan(
    model: nn.Module,
    example_inputs: Any,
    *,
    keep: float | None = None,
    macs: float | None = None,
    params: float | None = None,
    bytes: float | None = None,
    latency: float | None = None,
    latency_table: LatencyTable | None = None,
    ranks: Mapping[str, int] | None = None,
    allocate: Allocator | Mapping[str, Sequence[float]] | Mapping[str, float] = "uniform",
    min_rank: int = 1,
    max_rank: int | None = None,
    multiple_of: int = 1,
    overrides: Mapping[str, int | float | None] | None = None,
    include: Include | None = None,
    unfolding: Unfolding | Literal["best"] | Mapping[str, Unfolding] = "channel",
    rectify: bool = True,
    factorize_all: bool = False,
) -> Plan:
    """Decide which layers of `model` become low-rank, and at which rank: from `keep`, from `ranks`, or from budgets.

    Args:
        model: Any network; left as it was found.
        example_inputs: What its forward takes: a tensor, a tuple of positional or a mapping of keyword arguments. Costs are
            those of this input: give a batch of one for the cost of one example.
        keep: Fraction of the rank of every layer to keep, in (0, 1]: r = max(1, ⌊s·keep⌋) with s = min(rows, columns), of
            each group. The paper's pruning ratio is p = 1 − keep.
        macs: Budget: multiply-adds that the compact network may have, as a fraction of the dense one's (up to 1) or as
            their number (above 1). Budgets are met from below; give several, and all are.
        params: Likewise for the parameters (weights and biases of convolutions and linears).
        bytes: Likewise for the bytes of all parameters and buffers.
        latency: Likewise for the milliseconds of one pass, by `latency_table`.
        latency_table: What the layers of this network were measured to take (`lrpet profile-latency`). With it, whatever the
            budget, no layer is factorised where its factors were no faster.
        ranks: {layer name: rank}; layers not named stay dense. Of layers that share a weight, name the first.
        allocate: How budgets are divided among the layers. "uniform": the same fraction of every rank. "energy": the ranks
            that together keep most, each layer counting by the fraction of its energy that it keeps (by the energy itself,
            layers with small weights would be starved; RESULTS.md has both); "threshold": the same fraction pruned from
            every layer's energy. These two look at the weights as they are now, which says nothing before training: give
            `Projector` a function that makes the plan, and it is made at the first projection. Or {layer name: worth of its
            1st, 2nd, … singular value}: the ranks that keep most of that. Or {layer name: ratio}: fractions of the ranks that
            are to each other as these ratios. Where rounding down to ranks leaves something of the budget, some layers get
            their next rank, until no layer's next would fit.
        min_rank: No lower rank than this, where the layer has it.
        max_rank: No higher one.
        multiple_of: Only ranks that are multiples of this, where the layer has one; hardware likes 8 or 16.
        overrides: {name pattern: rank (int), whatever the limits; fraction of the rank to keep (float), within the limits;
            or None to stay dense}; the first pattern that a layer's name is like counts.
        include: `(module, name) -> bool` chooses layers. By default every convolution, linear and attention, except the
            final classifier (a linear that is the last layer to run) and what is frozen.
        unfolding: How the kernel of a two-dimensional convolution is divided: "channel", k×k then 1×1, as in the paper;
            "spatial", k×1 then 1×k; "best", for every layer the one that keeps more energy of the weight as it is now at
            the same multiply-adds, which says little before training; or {layer name: one of the first two}.
        rectify: Record each layer's batch norm, to be folded in when it is projected.
        factorize_all: Factorise even where the factors cost as much as the dense layer or more.

    Raises:
        ValueError: no budget, or keep or ranks with another; a budget out of range, or impossible (the message says the
            smallest possible); an unknown layer, one that cannot be factorised, or a rank out of range in `ranks`; an unknown
            unfolding or allocator; a pattern in `overrides` that no layer's name is like.
    """
    given: dict[str, Any] = {
        "keep": keep,
        "macs": macs,
        "params": params,
        "bytes": bytes,
        "latency": latency,
        "ranks": ranks,
    }
    budgets = {name: value for name, value in given.items() if value is not None}
    _check(budgets, allocate, overrides, include, min_rank=min_rank, max_rank=max_rank, multiple_of=multiple_of)

    if latency is not None and latency_table is None:
        raise ValueError("latency is a budget of what was measured: give latency_table, from `lrpet profile-latency`")
    layers = profile(model, example_inputs)
    overridden = _first_match(overrides or {}, [layer.name for layer in layers])
    refused = refusals(layers, include, ranks)
    refused |= {name: "overridden: stays dense" for name, value in overridden.items() if value is None}
    kept = keep or next((value for value in (macs, params, bytes, latency) if value and value <= 1), None)
    unfoldings = unfoldings_of(layers, unfolding, model, kept=kept, of_rank=keep is not None)
    candidates = candidates_of([layer for layer in layers if layer.name not in refused], unfoldings)

    def decided(wanted: Mapping[str, int | None]) -> tuple[LayerPlan, ...]:
        fates = dict.fromkeys((layer.name for layer in layers), Fate(None, ""))
        fates |= {name: Fate(None, why) for name, why in refused.items()}
        for name, rank in wanted.items():
            fates |= candidates[name].fates(rank, rectify=rectify, factorize_all=factorize_all)
        return tuple(layer_plan(layer, fates[layer.name]) for layer in layers)

    if ranks is not None:
        check_ranks(ranks, candidates, layers, refused)
        return Plan(layers=decided(ranks), budget="ranks")
    limits: dict[str, Any] = {"min_rank": min_rank, "max_rank": max_rank, "multiple_of": multiple_of}
    fixed = {
        name: _rank_of(overridden[name], each.cost.full_rank, limits)
        for name, each in candidates.items()
        if name in overridden
    }
    spending = _spending(model, layers, candidates, fixed, budgets, limits, latency_table, factorize_all=factorize_all)
    if keep is not None:
        uniform = {name: uniform_rank(each.cost.full_rank, keep) for name, each in spending.candidates.items()}
        settled = {
            name: each.nearest(uniform[name]) if latency_table is None else each.settled(uniform[name])
            for name, each in spending.candidates.items()
        }
        return Plan(layers=decided(settled), budget=f"keep={keep:g}")
    spending.check_possible()
    chosen, how = divided(
        spending, allocate, lambda: {name: kept_energy(each, model) for name, each in candidates.items()}
    )
    text = ", ".join(f"{name}={value:g}" if value <= 1 else f"{name}={value:,.0f}" for name, value in budgets.items())
    return Plan(layers=decided(chosen), budget=f"{text} ({how})")


def _check(
    budgets: Mapping[str, Any],
    allocate: str | Mapping[str, Any],
    overrides: Mapping[str, Any] | None,
    include: Include | None,
    *,
    min_rank: int,
    max_rank: int | None,
    multiple_of: int,
) -> None:
    alone = [name for name in ("keep", "ranks") if name in budgets]
    if not budgets or (alone and len(budgets) > 1):
        raise ValueError(
            "give keep, or ranks, or one or more budgets of macs, params, bytes and latency; "
            f"got {' and '.join(budgets) or 'none'}"
        )
    if "ranks" in budgets and (include is not None or overrides):
        raise ValueError("give ranks alone, without include or overrides: it names the layers itself")
    if "ranks" in budgets and (min_rank, max_rank, multiple_of) != (1, None, 1):
        raise ValueError("give ranks alone, without min_rank, max_rank or multiple_of: it says them itself")
    if alone and allocate != "uniform":
        raise ValueError(
            f"allocate divides budgets of macs, params, bytes and latency; {alone[0]} leaves nothing to divide"
        )
    if not isinstance(allocate, Mapping) and allocate not in get_args(Allocator):
        raise ValueError(
            f"allocate={allocate!r} must be {', '.join(get_args(Allocator))}, {{layer name: worths}} or {{layer name: ratio}}"
        )
    for name in set(budgets) - {"ranks"}:
        value = budgets[name]
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        whole = is_number and (float(value).is_integer() or (name == "latency" and math.isfinite(value)))
        absolute = name != "keep" and whole and value > 1
        if not (absolute or (is_number and 0 < value <= 1)):
            counted = "" if name == "keep" else f", or above 1 as a whole number of {UNITS[name]}"
            raise ValueError(
                f"{name}={value!r} must be a fraction above 0 and at most 1 (of the dense network's){counted}"
            )
    for name, number in {"min_rank": min_rank, "max_rank": max_rank, "multiple_of": multiple_of}.items():
        if number is not None and (not isinstance(number, int) or isinstance(number, bool) or number < 1):
            raise ValueError(f"{name}={number!r} must be a whole number, at least 1")
    if max_rank is not None and max_rank < min_rank:
        raise ValueError(f"max_rank={max_rank} is below min_rank={min_rank}")
    for pattern, value in (overrides or {}).items():
        whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        if not (value is None or whole or (isinstance(value, float) and 0 < value <= 1)):
            raise ValueError(
                f"overrides gives {pattern!r} {value!r}; it must be a rank, a fraction above 0 and at most 1, or None"
            )


def _first_match(overrides: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    """{layer name: what the first pattern that it is like says}."""
    found = {}
    for name in names:
        matching = [pattern for pattern in overrides if fnmatchcase(name, pattern)]
        if matching:
            found[name] = overrides[matching[0]]
    for pattern in overrides:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(
                f"overrides names {pattern!r}, which no layer's name is like; its layers: {', '.join(names)}"
            )
    return found


def _rank_of(value: int | float, full_rank: int, limits: Mapping[str, Any]) -> int:
    if isinstance(value, float):
        return nearest_rank(allowed_ranks(full_rank, **limits), uniform_rank(full_rank, value))
    return min(value, full_rank)


def _spending(
    model: nn.Module,
    layers: list[Layer],
    candidates: Mapping[str, Candidate],
    fixed: Mapping[str, int],
    budgets: Mapping[str, Any],
    limits: Mapping[str, Any],
    table: LatencyTable | None,
    *,
    factorize_all: bool,
) -> Spending:
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    totals = {
        "macs": sum(layer.macs for layer in layers),
        "params": sum(layer.params for layer in layers),
        "bytes": sum(tensor.nbytes for tensor in tensors.values()),
        "latency": 0.0 if table is None else table.network,
    }
    times = {} if table is None else {name: _times(table, each) for name, each in candidates.items()}
    absolute = {
        name: value * totals[name] if value <= 1 else value for name, value in budgets.items() if name in totals
    }
    options = {
        name: Options(
            each.cost,
            weight_of(each.layers[0].module).element_size(),
            allowed_ranks(each.cost.full_rank, **limits),
            fixed.get(name),
            may_be_dense=not factorize_all,
            milliseconds=times.get(name),
        )
        for name, each in candidates.items()
    }
    return Spending(options, {unit: totals[unit] for unit in absolute}, absolute)


def _times(table: LatencyTable, candidate: Candidate) -> Callable[[int | None], float]:
    """The milliseconds of a weight in all its layers, by rank."""
    names = [layer.name for layer in candidate.layers]
    if missing := [name for name in names if name not in table.dense]:
        raise ValueError(
            f"latency_table has no times for {', '.join(missing)}: was it measured for another network? Layers that a "
            "module runs itself cannot be measured: leave them out by `include`"
        )
    return lambda rank: sum(table.milliseconds(name, rank) for name in names)
