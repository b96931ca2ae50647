"""Measuring what the layers of a network cost in time, dense and at a ladder of ranks."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lrpet.latency.measure import latency, raced
from lrpet.latency.runtimes import Runtime, check_runtime, ready_together
from lrpet.latency.table import LatencyTable
from lrpet.layers import evaluating
from lrpet.layers.attention import AttentionInput, output_name
from lrpet.layers.inputs import Inputs
from lrpet.layers.matrix import MatrixLayer
from lrpet.planning.costs import MatrixCost, uniform_rank
from lrpet.planning.friendly import multiple_for
from lrpet.planning.planner import plan
from lrpet.planning.unfolding import spatial_of

LADDER = (1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4)


class Interrupted(KeyboardInterrupt):
    """Measuring was interrupted; `table` holds what was measured until then, or is None before the first layer."""

    def __init__(self, table: LatencyTable | None) -> None:
        super().__init__()
        self.table = table


@torch.no_grad()
def profile_latency(
    model: nn.Module,
    example_inputs: Any,
    *,
    runtime: Runtime = "eager",
    ladder: Sequence[float] = LADDER,
    multiple_of: int | Literal["auto"] = "auto",
    seconds: float = 0.2,
    known: LatencyTable | None = None,
    told: Callable[[str], None] = lambda _: None,
) -> LatencyTable:
    """Measure every distinct layer of `model` that can be factorised, on the device of the inputs.

    A two-dimensional convolution is measured with its kernel divided in both ways: k×k and 1×1, and k×1 and 1×k. Layers of
    one kind, shape and input are measured once. The dense layer and its factors take turns, so that other
    work on the machine slows all alike; medians are kept.

    Args:
        model: Any network; unchanged.
        example_inputs: What its forward takes, of the batch size to be fast at: a tensor, a tuple of positional or a mapping
            of keyword arguments.
        runtime: PyTorch as it is ("eager") or compiled, or on the CPU ONNX Runtime or OpenVINO.
        ladder: Fractions of full rank to measure at.
        multiple_of: Round these ranks to multiples of this, where a layer has one; "auto" for those that `lrpet.plan` takes.
        seconds: Bounds the measuring of each contender.
        known: An interrupted table of this network and runtime, whose layers are not measured again.
        told: Is told each layer as it is measured.

    Raises:
        ValueError: an unknown runtime, or one that cannot take the network.
        ImportError: the runtime is not installed.
        Interrupted: on Ctrl-C; the exception has what was measured.
    """
    example = Inputs.of(example_inputs)
    check_runtime(runtime, example.device)
    everything = plan(model, example, keep=1.0, factorize_all=True, include="*")
    layers = everything.bind(model)
    inputs = _inputs(model, example, layers.values())
    whole = latency({"network": model}, example, runtime=runtime, seconds=seconds)["network"]
    shapes = [list(tensor.shape) for tensor in example.tensors]
    table = LatencyTable(
        network=whole,
        dense={},
        factorised={},
        source={
            "runtime": runtime,
            "device": str(example.device),
            "input": shapes[0] if len(shapes) == 1 else shapes,
            "threads": torch.get_num_threads(),
        },
        shapes={layer.name: str(layer.shape) for layer in everything.layers if layer.counted},
    )
    forms = {name: _forms(layer) for name, layer in layers.items()}
    widest = max((form.shape.full_rank for both in forms.values() for form in both), default=0)
    measured: dict[Any, dict[str, float]] = {}
    dense = {} if known is None else dict(known.dense)
    factorised = {} if known is None else {name: dict(times) for name, times in known.factorised.items()}
    spatial = {} if known is None else {name: dict(times) for name, times in known.spatial.items()}
    try:
        for name, layer in layers.items():
            if name not in inputs or name in dense:
                continue  # run by its parent, or known
            (x, *others), calls = inputs[name]
            rungs = [(form, rank) for form in forms[name] for rank in _ranks(form, ladder, multiple_of, widest)]
            key = (repr(layer.module), *(tensor.shape for tensor in (x, *others)), x.dtype, tuple(map(_name, rungs)))
            if key not in measured:
                told(name)
                contenders = {"dense": layer.module, **{_name(rung): _factorised(*rung) for rung in rungs}}
                given = Inputs((x, *others), {"need_weights": False} if others else {})
                measured[key] = _measured(contenders, given, runtime, seconds)
            times: dict[str, dict[int, float]] = {form.unfolding: {} for form in forms[name]}
            for form, rank in rungs:
                times[form.unfolding][rank] = calls * measured[key][_name((form, rank))]
            if "spatial" in times:
                spatial[name] = times["spatial"]
            dense[name], factorised[name] = calls * measured[key]["dense"], times["channel"]
    except KeyboardInterrupt:
        found = replace(table, dense=dense, factorised=factorised, spatial=spatial) if dense else None
        raise Interrupted(found) from None
    return replace(table, dense=dense, factorised=factorised, spatial=spatial)


def _forms(layer: MatrixLayer) -> list[MatrixLayer]:
    """Return a layer in each unfolding that it can have."""
    spatial = spatial_of(layer)
    return [layer] if spatial is None else [layer, spatial]


def _name(rung: tuple[MatrixLayer, int]) -> str:
    form, rank = rung
    return f"{form.unfolding} {rank}"


def _measured(
    contenders: Mapping[str, nn.Module], inputs: Inputs, runtime: Runtime, seconds: float
) -> dict[str, float]:
    """Return the median milliseconds of each form of a layer."""
    with evaluating(*contenders.values()):
        torch.compiler.reset()
        passes = ready_together(contenders, inputs, runtime)
        times = raced(passes, seconds=seconds, device=inputs.device)
    return {name: statistics.median(values) for name, values in times.items()}


def _ranks(form: MatrixLayer, ladder: Sequence[float], multiple_of: int | str, widest: int) -> list[int]:
    """Return the ranks to measure at: those that save parameters, and the next."""
    full = form.shape.full_rank
    multiple = multiple_for(full, widest=widest) if isinstance(multiple_of, str) else multiple_of
    nearest = multiple // 2 if isinstance(multiple_of, str) else 0
    ranks = sorted({_rung(full, uniform_rank(full, fraction) + nearest, multiple) for fraction in ladder})
    cost = MatrixCost(form.shape.rows, form.shape.columns, 1, form.shape.groups)
    return ranks[: 1 + sum(cost.saves(rank) for rank in ranks)]


def _rung(full: int, rank: int, multiple_of: int) -> int:
    """Return a rank of the ladder: the multiple below `rank`, where the layer has one."""
    return max(multiple_of, rank // multiple_of * multiple_of) if full >= multiple_of else rank


def _factorised(layer: MatrixLayer, rank: int) -> nn.Module:
    """Return what a layer becomes at this rank, with any weights: they do not change the time."""
    whole = isinstance(layer, AttentionInput)
    factors = layer.replacement({layer.name: rank}) if whole else layer.empty_factors(rank)
    for parameter in factors.parameters():
        parameter.normal_(std=0.02)
    return factors


def _inputs(
    model: nn.Module, example: Inputs, layers: Collection[MatrixLayer]
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
            example.run(model)
    finally:
        for handle in handles:
            handle.remove()
    return seen
