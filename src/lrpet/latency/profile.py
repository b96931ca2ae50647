"""Measuring what the layers of a network cost in time, dense and at a ladder of ranks."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

import lrpet
from lrpet.latency.table import LatencyTable
from lrpet.layers.attention import FactorizedAttention
from lrpet.layers.factors import empty_factors
from lrpet.layers.matrix import shape_of
from lrpet.planning.costs import uniform_rank
from lrpet.train.measure import latency

Runtime = Literal["eager", "compile", "onnxruntime"]
LADDER = (1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4)


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

    Layers of the same kind, shape and input are measured once. The dense layer and its factors take turns, so that other
    work on the machine slows all alike; medians are kept.

    Args:
        model: A network of one input; unchanged.
        example: Its input, of the batch size to be fast at.
        runtime: PyTorch as it is, compiled, or ONNX Runtime on the CPU.
        ladder: Fractions of full rank to measure at.
        multiple_of: Round these ranks to multiples of this, where a layer has one.
        seconds: Bounds the measuring of each contender.
        told: Is told each layer as it is measured.

    Raises ValueError for an unknown runtime.
    """
    if runtime not in ("eager", "compile", "onnxruntime"):
        raise ValueError(f"runtime={runtime!r} must be eager, compile or onnxruntime")
    plan = lrpet.plan(model, example, keep=1.0, factorize_all=True, unfolding="channel")
    inputs = _inputs(model, example, list(plan.ranks))
    measured: dict[Any, dict[str, float]] = {}
    dense: dict[str, float] = {}
    factorised: dict[str, dict[int, float]] = {}
    for name in plan.ranks:
        if name not in inputs:
            continue  # run by its parent: no table for it, so no plan by latency
        module, ((x, *others), calls) = model.get_submodule(name), inputs[name]
        full = shape_of(module).full_rank
        ranks = sorted({_rung(full, fraction, multiple_of) for fraction in ladder})
        key = (repr(module), *(tensor.shape for tensor in (x, *others)), x.dtype, tuple(ranks))
        if key not in measured:
            told(name)
            contenders = {"dense": module, **{str(rank): _factorised(module, rank) for rank in ranks}}
            if others:
                contenders = {form: _Attending(attention, *others) for form, attention in contenders.items()}
            measured[key] = raced(contenders, x, runtime, seconds)
        times = measured[key]
        dense[name] = calls * times["dense"]
        factorised[name] = {rank: calls * times[str(rank)] for rank in ranks}
    whole = raced({"network": model}, example, runtime, seconds)["network"]
    source = {
        "runtime": runtime,
        "device": str(example.device),
        "input": list(example.shape),
        "threads": torch.get_num_threads(),
    }
    return LatencyTable(whole, dense, factorised, source)


def _rung(full: int, fraction: float, multiple_of: int) -> int:
    """A rank of the ladder: a multiple where the layer has one as low as this."""
    rank = uniform_rank(full, fraction)
    return max(multiple_of, rank // multiple_of * multiple_of) if full >= multiple_of else rank


def _factorised(module: nn.Module, rank: int) -> nn.Module:
    """With any weights: they do not change the time."""
    if isinstance(module, nn.MultiheadAttention):
        factors: nn.Module = FactorizedAttention(module, rank, None)
    else:
        factors = empty_factors(module, rank)
    for parameter in factors.parameters():
        parameter.normal_(std=0.02)
    return factors


def _inputs(model: nn.Module, example: Tensor, names: list[str]) -> dict[str, tuple[tuple[Tensor, ...], int]]:
    """{layer name: its first inputs (query, key and value of an attention), how often it ran}."""
    seen: dict[str, tuple[tuple[Tensor, ...], int]] = {}

    def note(name: str, *arguments: Tensor) -> None:
        first, calls = seen.get(name, (tuple(argument.detach().clone() for argument in arguments), 0))
        seen[name] = (first, calls + 1)

    def watch(name: str) -> Any:
        def hook(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
            if isinstance(module, nn.MultiheadAttention):
                given = dict(zip(("query", "key", "value"), arguments, strict=False)) | named
                note(name, given["query"], given["key"], given["value"])
                note(f"{name}.out_proj", given["query"])  # which the attention runs itself, on as many tokens
            elif len(arguments) == 1 and isinstance(arguments[0], Tensor):
                note(name, arguments[0])

        return hook

    modes = [(module, module.training) for module in model.modules()]
    handles = [
        model.get_submodule(name).register_forward_pre_hook(watch(name), with_kwargs=True)
        for name in {*names, *(name.removesuffix(".out_proj") for name in names)}
    ]
    try:
        model.eval()(example)
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes:
            module.training = training
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


def raced(contenders: dict[str, nn.Module], x: Tensor, runtime: Runtime, seconds: float) -> dict[str, float]:
    """Median milliseconds of one pass of each through a runtime, the contenders taking turns for `seconds` each."""
    if runtime == "compile":
        torch._dynamo.reset()
        contenders = {name: torch.compile(module) for name, module in contenders.items()}  # type: ignore[misc]
    if runtime == "onnxruntime":
        contenders = {name: _Session(module, x) for name, module in contenders.items()}
    return latency(contenders, x, seconds=seconds)


class _Session(nn.Module):
    """A module in ONNX Runtime, on the CPU."""

    def __init__(self, module: nn.Module, x: Tensor) -> None:
        super().__init__()
        import onnxruntime

        program = torch.onnx.export(
            copy.deepcopy(module).eval(), (x,), dynamo=True, verbose=False, input_names=["x"], output_names=["y"]
        )
        assert program is not None
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "module.onnx"
            program.save(str(path), external_data=False)
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()
            # Else the threads of the one that has just run would slow the next.
            options.add_session_config_entry("session.force_spinning_stop", "1")
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def forward(self, x: Tensor) -> Any:
        return self.session.run(["y"], {"x": x.numpy()})
