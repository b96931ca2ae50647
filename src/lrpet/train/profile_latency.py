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
from lrpet.factors import empty_factors
from lrpet.latency import LatencyTable
from lrpet.matrix import shape_of
from lrpet.ranks import uniform_rank
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
        module, (x, calls) = model.get_submodule(name), inputs.get(name, (None, 0))
        if x is None:
            continue  # run by its parent, such as an attention's projections: no table for it, so no plan by latency
        full = shape_of(module).full_rank
        ranks = sorted({_rung(full, fraction, multiple_of) for fraction in ladder})
        key = (repr(module), x.shape, x.dtype, tuple(ranks))
        if key not in measured:
            told(name)
            contenders: dict[str, nn.Module] = {"dense": module}
            for rank in ranks:
                pair = empty_factors(module, rank)
                for parameter in pair.parameters():
                    parameter.normal_(std=0.02)
                contenders[str(rank)] = pair
            measured[key] = _raced(contenders, x, runtime, seconds)
        times = measured[key]
        dense[name] = calls * times["dense"]
        factorised[name] = {rank: calls * times[str(rank)] for rank in ranks}
    whole = _raced({"network": model}, example, runtime, seconds)["network"]
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


def _inputs(model: nn.Module, example: Tensor, names: list[str]) -> dict[str, tuple[Tensor, int]]:
    """{layer name: its first input, how often it ran}."""
    seen: dict[str, tuple[Tensor, int]] = {}

    def watch(name: str) -> Any:
        def hook(_: nn.Module, arguments: tuple[Any, ...]) -> None:
            if len(arguments) == 1 and isinstance(arguments[0], Tensor):
                first, calls = seen.get(name, (arguments[0].detach().clone(), 0))
                seen[name] = (first, calls + 1)

        return hook

    modes = [(module, module.training) for module in model.modules()]
    handles = [model.get_submodule(name).register_forward_pre_hook(watch(name)) for name in names]
    try:
        model.eval()(example)
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes:
            module.training = training
    return seen


def _raced(contenders: dict[str, nn.Module], x: Tensor, runtime: Runtime, seconds: float) -> dict[str, float]:
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
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def forward(self, x: Tensor) -> Any:
        return self.session.run(["y"], {"x": x.numpy()})
