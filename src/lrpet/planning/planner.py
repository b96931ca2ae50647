"""`lrpet.plan`: from a network and a budget to a `Plan`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

from torch import Tensor, nn

from lrpet.layers.matrix import MatrixShape, Unfolding
from lrpet.layers.observe import Observation, Observed, observe
from lrpet.layers.watching import ONE_AT_A_TIME
from lrpet.layers.wrapping import unwrapped
from lrpet.planning.budget import Budget
from lrpet.planning.costs import nearest_rank, uniform_rank
from lrpet.planning.division import divide
from lrpet.planning.layer_plan import LayerPlan
from lrpet.planning.limits import Limits
from lrpet.planning.measured import by_times, check_same_network
from lrpet.planning.plan import Plan
from lrpet.planning.request import Allocator, Request
from lrpet.planning.selection import Names, Overrides, overridden, refusals
from lrpet.planning.sensitivity import Sensitivity
from lrpet.planning.times import Runtime, Times
from lrpet.planning.unfolding import automatic, kept_fraction, unfoldings_of


def plan(  # noqa: PLR0913  # keyword arguments as sugar: each goes into one of Budget, Limits and Request
    model: nn.Module,
    example_inputs: Any,
    *,
    keep: float | None = None,
    macs: float | None = None,
    params: float | None = None,
    bytes: float | None = None,
    latency: float | None = None,
    runtime: Runtime | None = None,
    latency_table: Times | None = None,
    ranks: Mapping[str, int] | None = None,
    allocate: Allocator | Mapping[str, Sequence[float]] | Mapping[str, float] = "auto",
    batches: Iterable[Any] | None = None,
    loss: Callable[[nn.Module, Any], Tensor] | None = None,
    min_rank: int = 1,
    max_rank: int | None = None,
    multiple_of: int | Literal["auto"] = "auto",
    min_saving: float | None = None,
    overrides: Overrides | None = None,
    include: Names | None = None,
    exclude: Names | None = None,
    unfolding: Unfolding | Literal["auto", "best"] | Mapping[str, Unfolding] = "auto",
    rectify: bool = True,
    factorize_all: bool = False,
) -> Plan:
    """Decide which layers of `model` become low-rank, and at which rank: from `keep`, from `ranks`, or from budgets.

    Args:
        model: Any network; left as it was found. Wrappers of torch.compile and data parallelism are seen through.
        example_inputs: What its forward takes: a tensor, a tuple of positional or a mapping of keyword arguments. Costs are
            those of this input: give a batch of one for the cost of one example.
        keep: Fraction of the rank of every layer to keep, in (0, 1]: r = max(1, ⌊s·keep⌋) with s = min(rows, columns), of
            each group. The paper's pruning ratio is p = 1 − keep.
        macs: Budget of multiply-adds, as a fraction of the dense network's (up to 1) or as their number (above 1). All
            matrix products count, attention's included. Budgets are met from below; give several, and all are met.
        params: Budget of parameters, as a fraction or a number. All parameters count, embeddings and norms included.
        bytes: Budget of the bytes of all parameters and buffers, as a fraction or a number.
        latency: Budget of the milliseconds of one pass, as a fraction or a number, on `runtime` or by `latency_table`.
        runtime: Measure on this machine what the layers take, dense and factorised, with "eager", "compile", "onnxruntime"
            or "openvino", and then the network as planned. Whatever the budget, no layer is factorised where its factors
            are no faster. Times are kept in the folder `lrpet.latency.cache.folder` names, so that this happens once.
        latency_table: What the layers were measured to take elsewhere (`lrpet profile-latency`), in place of `runtime`.
        ranks: {layer name: rank}; layers not named stay dense. Where layers share a weight, name the first.
        allocate: How budgets are divided among the layers. Where rounding down to ranks leaves something of the budget, some
            layers get their next rank, until no layer's next would fit.

            - "uniform": the same fraction of every rank.
            - "energy": the ranks that together keep most, each layer counting by the fraction of its energy that it keeps.
            - "threshold": the same fraction pruned from every layer's energy.
            - "sensitivity": the ranks that keep most of what singular values are worth to the loss, see `Sensitivity`.
            - "auto": "energy" where batch norms follow layers, and projections begin in the second half of the training;
              else "uniform", which a language model did better with.
            - {layer name: worth of its 1st, 2nd, … singular value}: the ranks that keep most of that.
            - {layer name: ratio}: fractions of the ranks in these proportions.

            Weights say nothing before training. The plan keeps what was asked, and `lrpet.Projector` divides the budget again
            at its first projection where that depends on the weights; until then "auto" and "sensitivity" divide uniformly.
        batches: With "sensitivity": training batches, a hundred or so, in a collection that can be gone through again.
        loss: With "sensitivity": `(model, batch) -> loss`, a scalar tensor.
        min_rank: The lowest rank, where a layer has it.
        max_rank: The highest rank.
        multiple_of: Only ranks that are multiples of this, where the layer has one. "auto" takes multiples that hardware
            computes fastest with: 16 for layers with a full rank of 128 or more, 8 from 16 on. Where a budget cannot be met
            so, multiples get smaller; where more than 1 % of it is left, a few layers get other ranks. With `keep`, "auto"
            allows any rank, as the paper does.
        min_saving: Factorise a layer only where that saves this fraction of the network's cost, in the unit of the budget (in
            one of several). By default 0.001; with `keep`, the paper's setting, any saving is enough.
        overrides: {name pattern: rank (int), whatever the limits; fraction of the rank to keep (float below 1), within the
            limits; or None to stay dense}; the first pattern that matches a layer's name counts.
        include: Layers to factorise: a name pattern, a list of patterns, or `(module, name) -> bool`. By default every
            convolution, linear and attention, except the final classifier (a linear that is the last layer to run) and
            what is frozen.
        exclude: Layers that stay dense, in the same form.
        unfolding: How the kernel of a two-dimensional convolution is divided: "channel", k×k then 1×1, as in the paper;
            "spatial", k×1 then 1×k; "best", for every layer the one that keeps more energy of the weight as it is now at
            equal multiply-adds, or in equal time where layers are timed; or {layer name: one of the first two}. "auto", for
            budgets of macs, params, bytes and latency, is what keeps more of a random weight of that shape: for trained
            weights, too, shapes nearly always decide. It is "channel" for keep, ranks, layers that `overrides` names, worths
            and ratios, which are about the ranks of channel pairs.
        rectify: Record each layer's batch norm, to be folded in when it is projected.
        factorize_all: Factorise even where the factors cost as much as the dense layer or more.

    Raises:
        ValueError: no budget, or keep or ranks with another; a budget out of range, or impossible (the message says the
            smallest possible, and what it consists of); a runtime that cannot take the network; an unknown layer, one that
            cannot be factorised, or a rank out of range in `ranks`; an unknown unfolding or allocator; a name pattern that
            matches no layer; one in `include` that matches nothing which can be factorised.
        ImportError: `runtime` is not installed.
    """
    budget = Budget(keep=keep, macs=macs, params=params, bytes=bytes, latency=latency, ranks=ranks)
    limits = Limits(min_rank, max_rank, multiple_of, min_saving, factorize_all)
    _check_together(budget, limits, allocate, chosen=bool(overrides or include or exclude))
    _check_latency(latency, runtime, latency_table)
    worths = _worths(allocate, batches, loss)
    model = unwrapped(model)
    seen = observe(model, example_inputs)
    refused = refusals(seen.layers, include, exclude, ranks)
    changed = overridden(overrides or {}, [layer.name for layer in seen.layers])
    refused |= {name: "overridden: stays dense" for name, value in changed.items() if value is None}
    wanted = automatic(budget, allocate) if unfolding == "auto" else unfolding
    how = "uniform" if allocate in ("auto", "sensitivity") else allocate

    def asked(times: Times | None) -> tuple[Plan, Request]:
        kept = kept_fraction(budget, seen, times)
        unfoldings = unfoldings_of(seen.layers, wanted, model, kept=kept, of_rank=keep is not None, times=times)
        if unfolding == "auto":
            unfoldings |= dict.fromkeys(changed, "channel")  # a rank that is asked for is one of channel pairs
        undecided = _undecided(seen, refused, unfoldings)
        request = Request(
            budget,
            limits,
            allocate if isinstance(allocate, str) else "given",
            rectify,
            candidates={
                layer.name: _fixed(changed.get(layer.name), layer, limits)
                for layer in undecided.layers
                if layer.name not in refused and layer.shares is None
            },
            batch_norms={layer.name: layer.batch_norm for layer in seen.layers if layer.batch_norm is not None},
            unpaired={layer.name: layer.unpaired for layer in seen.layers if layer.unpaired is not None},
            worths=worths,
        )
        if ranks is not None:
            _check_ranks(ranks, request, undecided, refused)
        if times is None:
            return undecided, request
        check_same_network(times, seen.layers)
        return by_times(undecided, request, times)

    def decided(times: Times | None) -> Plan:
        return divide(*asked(times), model, how)

    if runtime is None:
        return decided(latency_table)
    asked(None)  # what is wrong with the request is said before anything is measured
    from lrpet.latency.timed import timed  # it measures, which no other plan needs

    with ONE_AT_A_TIME:
        return timed(model, example_inputs, runtime, decided, budget=latency)


def _check_together(budget: Budget, limits: Limits, allocate: str | Mapping[str, Any], *, chosen: bool) -> None:
    if budget.ranks is not None and chosen:
        raise ValueError("give ranks alone, without include, exclude or overrides: it names the layers itself")
    if budget.ranks is not None and limits.bounds_ranks:
        raise ValueError("give ranks alone, without min_rank, max_rank or multiple_of: it says them itself")
    if not isinstance(allocate, Mapping) and allocate not in get_args(Allocator):
        known = ", ".join(get_args(Allocator))
        raise ValueError(f"allocate={allocate!r} must be {known}, {{layer name: worths}} or {{layer name: ratio}}")
    if not budget.divisible and allocate not in ("auto", "uniform"):
        (alone,) = budget.given
        raise ValueError(
            f"allocate divides budgets of macs, params, bytes and latency; {alone} leaves nothing to divide"
        )


def _check_latency(latency: float | None, runtime: str | None, table: Times | None) -> None:
    if runtime is not None and table is not None:
        raise ValueError("give runtime, to measure here, or latency_table, which was measured before: not both")
    if latency is not None and runtime is None and table is None:
        raise ValueError(
            "latency is a budget of what is measured: give runtime, such as 'onnxruntime', or latency_table, "
            "from `lrpet profile-latency`"
        )


def _worths(allocate: Any, batches: Iterable[Any] | None, loss: Any) -> Sensitivity | None:
    if allocate != "sensitivity":
        if batches is not None or loss is not None:
            raise ValueError("batches and loss go with allocate='sensitivity'")
        return None
    if batches is None or loss is None:
        raise ValueError(
            "allocate='sensitivity' needs batches of training data and loss, (model, batch) -> scalar tensor"
        )
    return Sensitivity(batches, loss)


def _undecided(seen: Observation, refused: Mapping[str, str], unfoldings: Mapping[str, Unfolding]) -> Plan:
    """Return the plan before any decision: candidates without a reason, the others with theirs."""
    owners: dict[str, str] = {}
    for layer in seen.layers:
        if layer.name not in refused and layer.name not in owners:
            owners.update({other: layer.name for other in layer.shares_weight_with if other not in refused})
    layers = tuple(
        _entry(layer, refused.get(layer.name, ""), owners.get(layer.name), unfoldings) for layer in seen.layers
    )
    return Plan(layers, "", {"macs": seen.macs, "params": seen.params, "bytes": seen.bytes})


def _entry(observed: Observed, reason: str, owner: str | None, unfoldings: Mapping[str, Unfolding]) -> LayerPlan:
    # Layers that share a weight have the unfolding of the first of them.
    unfolding: Unfolding = "channel" if reason else unfoldings.get(owner or observed.name, "channel")
    layer = None if observed.layer is None else observed.at(unfolding)
    shape = MatrixShape(0, 0) if layer is None else layer.shape
    first = None if layer is None or unfolding == "channel" else int(observed.first_positions(unfolding))
    return LayerPlan(
        name=observed.name,
        kind=type(observed.module).__name__,
        rows=shape.rows,
        columns=shape.columns,
        groups=shape.groups,
        unfolding=unfolding,
        rank=None,
        macs_dense=observed.macs,
        macs=observed.macs,
        params_dense=observed.params,
        params=observed.params,
        batch_norm=None,
        reason=reason,
        counted=layer is not None,
        shares=owner,
        first_positions=first,
        extra_params=0 if layer is None else layer.extra_params,
    )


def _fixed(value: int | float | None, layer: LayerPlan, limits: Limits) -> int | None:
    """Return the rank that an override asks for, if any."""
    full = layer.shape.full_rank
    if isinstance(value, float):
        return nearest_rank(limits.ranks(full), uniform_rank(full, value))
    return None if value is None else min(value, full)


def _check_ranks(ranks: Mapping[str, int], request: Request, plan: Plan, refused: Mapping[str, str]) -> None:
    """Raise ValueError for a name that is no layer or cannot be factorised, and for a rank out of range."""
    layers = {layer.name: layer for layer in plan.layers}
    for name, rank in ranks.items():
        if name not in layers:
            raise ValueError(
                f"ranks names {name!r}, which is no layer of this network; its layers: {', '.join(layers)}"
            )
        if name in refused:
            raise ValueError(f"ranks names {name!r}, which cannot be factorised: {refused[name]}")
        if name not in request.candidates:
            owner = layers[name].shares
            raise ValueError(f"ranks names {name!r}, which shares the weight of {owner!r}: give the rank to that one")
        full = layers[name].shape.full_rank
        if not isinstance(rank, int) or isinstance(rank, bool) or not 1 <= rank <= full:
            raise ValueError(f"ranks gives {name!r} the rank {rank!r}; it must be a whole number from 1 to {full}")
