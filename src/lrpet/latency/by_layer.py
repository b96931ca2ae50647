"""Where the time of a pass goes, layer by layer, in eager PyTorch."""

from __future__ import annotations

import random
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from lrpet.compact.cpu_convolution import CpuConv2d
from lrpet.compact.cpu_linear import CpuLinear
from lrpet.latency.measure import ROUNDS
from lrpet.latency.rows import LayerRow
from lrpet.layers.inputs import Inputs
from lrpet.layers.observe import Observation

#: The row of everything outside of layers: sums, activations that are functions, attention's products of tensors.
REST = "(between layers)"
#: {what `lrpet.optimize` turns a layer into: its plain class}.
_PLAIN: dict[type[nn.Module], type[nn.Module]] = {CpuConv2d: nn.Conv2d, CpuLinear: nn.Linear}


def layer_rows(
    networks: Mapping[str, nn.Module],
    inputs: Inputs,
    seen: Mapping[str, Observation],
    *,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[LayerRow, ...]:
    """Time every layer of the first network and what has its name in each other one, and sort by the time that is lost.

    Whole passes take turns, and hooks time the layers in them. `seen` is what `observe` saw of each network. `seconds`
    bounds the measuring of each network.

    Raises ValueError if a network has no layer by a name of the first one's.
    """
    first, *others = networks
    names = {first: _layers(networks[first])}
    for other in others:
        modules = dict(networks[other].named_modules())
        names[other] = [name for name in names[first] if name in modules]
        if not names[other]:
            raise ValueError(f"layers compares layers by name, and {other!r} has none of the names of {first!r}'s")
    times = _times(networks, names, inputs, seconds, clock)
    rows = [
        LayerRow(
            network=other,
            layer=name,
            kind=_kind(networks, first, other, name),
            dense_milliseconds=times[first][name],
            milliseconds=times[other][name],
            cost_ratio=_cost_ratio(seen[first], seen[other], name),
        )
        for other in others
        for name in (*names[other], REST)
        if name in times[first] and name in times[other]
    ]
    return tuple(sorted(rows, key=lambda row: row.lost, reverse=True))


def _layers(network: nn.Module) -> list[str]:
    """Return the names of the modules without children, and of attentions, whose children do not run themselves."""
    names: list[str] = []
    within: tuple[str, ...] = ()
    for name, module in network.named_modules():
        if name.startswith(within):
            continue
        if isinstance(module, nn.MultiheadAttention):
            within = (*within, f"{name}.")
            names.append(name)
        elif not any(True for _ in module.children()):
            names.append(name)
    return names


def _times(
    networks: Mapping[str, nn.Module],
    names: Mapping[str, Collection[str]],
    inputs: Inputs,
    seconds: float,
    clock: Callable[[], float],
) -> dict[str, dict[str, float]]:
    """Return {network: {layer: median milliseconds of its calls in a pass}}, with what is left of the pass as REST."""

    def now() -> float:
        if inputs.device.type == "cuda":
            torch.cuda.synchronize(inputs.device)
        return clock()

    rounds: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in networks}
    for network in networks.values():
        inputs.run(network)
    order, shuffle = list(networks), random.Random(0).shuffle
    done, began = 0, clock()
    while done < ROUNDS or clock() - began < seconds * len(networks):
        shuffle(order)
        for name in order:
            with _hooked(networks[name], names[name], now) as spent:
                begin = now()
                inputs.run(networks[name])
                whole = now() - begin
            for layer, passed in {**spent, REST: whole - sum(spent.values())}.items():
                rounds[name][layer].append(1e3 * passed)
        done += 1
    return {
        name: {layer: statistics.median(times) for layer, times in layers.items()} for name, layers in rounds.items()
    }


@contextmanager
def _hooked(network: nn.Module, names: Collection[str], now: Callable[[], float]) -> Iterator[dict[str, float]]:
    """Yield {layer: seconds of its calls}, filled while the network runs inside the block."""
    spent: dict[str, float] = defaultdict(float)
    begun: dict[str, float] = {}

    def before(name: str) -> Any:
        def hook(*_: Any) -> None:
            begun[name] = now()

        return hook

    def after(name: str) -> Any:
        def hook(*_: Any) -> None:
            spent[name] += now() - begun[name]

        return hook

    handles = []
    try:
        for name in names:
            module = network.get_submodule(name)
            handles += [module.register_forward_pre_hook(before(name)), module.register_forward_hook(after(name))]
        yield spent
    finally:
        for handle in handles:
            handle.remove()


def _kind(networks: Mapping[str, nn.Module], first: str, other: str, name: str) -> str:
    """Return the classes of a layer in both networks."""
    if name == REST:
        return ""
    modules = [networks[each].get_submodule(name) for each in (first, other)]
    kinds = [_PLAIN.get(type(module), type(module)).__name__ for module in modules]
    return kinds[0] if kinds[0] == kinds[1] else " → ".join(kinds)


def _cost_ratio(first: Observation, other: Observation, name: str) -> float | None:
    before, after = (
        sum(layer.macs for layer in seen.layers if layer.name == name or layer.name.startswith(f"{name}."))
        for seen in (first, other)
    )
    return after / before if before else None
