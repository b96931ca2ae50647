"""Planning by measured times: whose they are, and which layers have none."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace

from lrpet.layers.observe import Observed
from lrpet.planning.layer_plan import LayerPlan
from lrpet.planning.plan import Plan
from lrpet.planning.request import Request
from lrpet.planning.times import Times

#: The reason of layers that have no times.
UNTIMED = "no time was measured for it: another module runs it, or measuring was interrupted"


def check_same_network(times: Times, layers: Iterable[Observed]) -> None:
    """Raise ValueError if the times are those of another network."""
    for layer in layers:
        if layer.layer is not None and (mismatch := times.mismatch(layer.name, str(layer.layer.shape))) is not None:
            raise ValueError(f"latency_table was measured for another network: {mismatch}")


def by_times(plan: Plan, request: Request, times: Times) -> tuple[Plan, Request]:
    """Return a plan before any decision, and its request, with measured times; layers that have none stay dense.

    Raises ValueError if no layer has any.
    """
    users = request.users(plan.layers)
    untimed = {name for name in users if not all(_knows(times, layer, rank=1) for layer in users[name])}
    if users and len(untimed) == len(users):
        raise ValueError(
            f"latency_table has no times for {', '.join(sorted(untimed)[:3])}: was it measured for another network? "
            "Measure this one by runtime=..., or by lrpet profile-latency"
        )
    layers = tuple(layer.dense(UNTIMED) if (layer.shares or layer.name) in untimed else layer for layer in plan.layers)
    candidates = {name: rank for name, rank in request.candidates.items() if name not in untimed}
    return replace(plan, layers=layers), replace(request, candidates=candidates, times=times)


def together(times: Times, layers: Collection[LayerPlan]) -> Callable[[int | None], float]:
    """Return the milliseconds, by rank, of a weight in all layers that use it."""
    return lambda rank: sum(times.milliseconds(layer.name, rank, layer.unfolding) for layer in layers)


def dense_times(times: Times, plan: Plan, request: Request) -> dict[str, float]:
    """Return {part of the network that stays dense: its milliseconds}: layers by name, and what is in no layer together."""
    known = [layer for layer in plan.layers if _knows(times, layer, rank=None)]
    milliseconds = {layer.name: times.milliseconds(layer.name, None) for layer in known}
    parts = {
        f"{layer.name} ({layer.reason})": milliseconds[layer.name]
        for layer in known
        if (layer.shares or layer.name) not in request.candidates
    }
    return {**parts, "all that is outside the layers measured": times.network - sum(milliseconds.values())}


def _knows(times: Times, layer: LayerPlan, *, rank: int | None) -> bool:
    try:
        times.milliseconds(layer.name, rank, layer.unfolding)
    except KeyError:
        return False
    return True
