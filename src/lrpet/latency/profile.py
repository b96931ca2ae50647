"""Measuring what the layers of a network cost in time, dense and at a ladder of ranks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any, get_args

import torch
from torch import Tensor, nn

from lrpet.latency.runtimes import Runtime, raced
from lrpet.latency.table import LatencyTable
from lrpet.layers import evaluating
from lrpet.layers.attention import AttentionInput, output_name
from lrpet.layers.matrix import MatrixLayer
from lrpet.planning.costs import uniform_rank
from lrpet.planning.planner import plan

LADDER = (1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4)


class Interrupted(KeyboardInterrupt):
    """Measuring was interrupted; `table` holds what was measured until then, or is None before the first layer."""

    def __init__(self, table: LatencyTable | None) -> None:
        super().__init__()
        self.table = table


@torch.no_grad()
def profile_latency(
    model: nn.Module,
    example: Tensor,
    *,
    runtime: Runtime = "eager",
    ladder: Sequence[float] = LADDER,
    multiple_of: int = 1,
    seconds: float = 0.2,
    told: Callable[[str], None] = lambda _: None,
) -> LatencyTable:
    """Measure every distinct layer of `model` that can be factorised, on the device of `example`.

    Layers of one kind, shape and input are measured once. The dense layer and its factors take turns, so that other
    work on the machine slows all alike; medians are kept.

    Args:
        model: A network of one input; unchanged.
        example: Its input, of the batch size to be fast at.
        runtime: PyTorch as it is, compiled, or ONNX Runtime on the CPU.
        ladder: Fractions of full rank to measure at.
        multiple_of: Round these ranks to multiples of this, where a layer has one.
        seconds: Bounds the measuring of each contender.
        told: Is told each layer as it is measured.

    Raises:
        ValueError: an unknown runtime.
        Interrupted: on Ctrl-C; the exception has what was measured.
    """
    if runtime not in get_args(Runtime):
        raise ValueError(f"runtime={runtime!r} must be one of {', '.join(get_args(Runtime))}")
    everything = plan(model, example, keep=1.0, factorize_all=True)
    layers = everything.bind(model)
    inputs = _inputs(model, example, layers.values())
    whole = raced({"network": model}, example, runtime, seconds)["network"]
    table = LatencyTable(
        network=whole,
        dense={},
        factorised={},
        source={
            "runtime": runtime,
            "device": str(example.device),
            "input": list(example.shape),
            "threads": torch.get_num_threads(),
        },
        shapes={layer.name: str(layer.shape) for layer in everything.layers if layer.counted},
    )
    measured: dict[Any, dict[str, float]] = {}
    dense: dict[str, float] = {}
    factorised: dict[str, dict[int, float]] = {}
    try:
        for name, layer in layers.items():
            if name not in inputs:
                continue  # run by its parent: no table for it, so no plan by latency
            (x, *others), calls = inputs[name]
            ranks = sorted({_rung(layer.shape.full_rank, fraction, multiple_of) for fraction in ladder})
            key = (repr(layer.module), *(tensor.shape for tensor in (x, *others)), x.dtype, tuple(ranks))
            if key not in measured:
                told(name)
                contenders = {"dense": layer.module, **{str(rank): _factorised(layer, rank) for rank in ranks}}
                if others:
                    contenders = {form: _Attending(attention, *others) for form, attention in contenders.items()}
                measured[key] = raced(contenders, x, runtime, seconds)
            times = measured[key]
            dense[name] = calls * times["dense"]
            factorised[name] = {rank: calls * times[str(rank)] for rank in ranks}
    except KeyboardInterrupt:
        raise Interrupted(replace(table, dense=dense, factorised=factorised) if dense else None) from None
    return replace(table, dense=dense, factorised=factorised)


def _rung(full: int, fraction: float, multiple_of: int) -> int:
    """Return a rank of the ladder: a multiple where the layer has one as low as this."""
    rank = uniform_rank(full, fraction)
    return max(multiple_of, rank // multiple_of * multiple_of) if full >= multiple_of else rank


def _factorised(layer: MatrixLayer, rank: int) -> nn.Module:
    """Return what a layer becomes at this rank, with any weights: they do not change the time."""
    whole = isinstance(layer, AttentionInput)
    factors = layer.replacement({layer.name: rank}) if whole else layer.empty_factors(rank)
    for parameter in factors.parameters():
        parameter.normal_(std=0.02)
    return factors


def _inputs(
    model: nn.Module, example: Tensor, layers: Collection[MatrixLayer]
) -> dict[str, tuple[tuple[Tensor, ...], int]]:
    """Return {layer name: its first inputs (query, key and value of an attention), how often it ran}."""
    seen: dict[str, tuple[tuple[Tensor, ...], int]] = {}

    def note(name: str, *arguments: Tensor) -> None:
        first, calls = seen.get(name, (tuple(argument.detach().clone() for argument in arguments), 0))
        seen[name] = (first, calls + 1)

    def watch(name: str) -> Any:
        def hook(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
            if isinstance(module, nn.MultiheadAttention):
                given = dict(zip(("query", "key", "value"), arguments, strict=False)) | named
                note(name, given["query"], given["key"], given["value"])
                note(output_name(name), given["query"])  # which the attention runs itself, on as many tokens
            elif len(arguments) == 1 and isinstance(arguments[0], Tensor):
                note(name, arguments[0])

        return hook

    handles = [
        model.get_submodule(name).register_forward_pre_hook(watch(name), with_kwargs=True)
        for name in {layer.host for layer in layers} | {layer.name for layer in layers}
    ]
    try:
        with evaluating(model):
            model(example)
    finally:
        for handle in handles:
            handle.remove()
    return seen


class _Attending(nn.Module):
    """An attention as a module of one input, the query."""

    def __init__(self, attention: nn.Module, key: Tensor, value: Tensor) -> None:
        super().__init__()
        self.attention = attention
        self.register_buffer("key", key)
        self.register_buffer("value", value)

    def forward(self, query: Tensor) -> Any:
        return self.attention(query, self.key, self.value, need_weights=False)[0]
