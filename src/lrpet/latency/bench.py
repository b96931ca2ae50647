"""`lrpet.bench`: is one network faster than another, here?"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lrpet.exporting.sessions import resident_growth
from lrpet.latency.by_layer import layer_rows
from lrpet.latency.conditions import Conditions, at_batch, batch_of
from lrpet.latency.machine import machine
from lrpet.latency.measure import raced
from lrpet.latency.memory import cuda_memory, eager_memory, saved_bytes
from lrpet.latency.results import Bench
from lrpet.latency.rows import Cost, LayerRow, Row, rows_of
from lrpet.latency.runtimes import FROM_FILE, Pass, Runtime, arrays, check_runtime, export, ready, session
from lrpet.layers.inputs import Inputs
from lrpet.layers.observe import Observation, observe
from lrpet.layers.wrapping import unwrapped


def bench(  # noqa: PLR0913  # keyword arguments as sugar: the last six go into Conditions
    models: Mapping[str, nn.Module],
    example_inputs: Any,
    *,
    runtimes: Sequence[Runtime] = ("eager",),
    batch_sizes: Sequence[int] | None = None,
    seconds: float = 1.0,
    layers: bool = False,
    told: Callable[[str], None] = lambda _: None,
    threads: int | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    channels_last: bool = False,
    cuda_graphs: bool = False,
    optimized: bool = True,
) -> Bench:
    """Time networks against each other, and say how much of a cut in multiply-adds is a cut in time.

    Contenders warm up, then take turns in a random order, so that a machine busy with other work slows all of them alike.

    Args:
        models: {name: network}, such as {"dense": model, "compact": compact}; left as they are. The first one is what the
            others are compared with.
        example_inputs: A tensor, a tuple of positional arguments, or a mapping of keyword arguments.
        runtimes: "eager" and "compile" for PyTorch, "onnxruntime" and "openvino" on the CPU.
        batch_sizes: Sizes to which the leading dimension of the inputs is repeated, or cut; None for their own.
        seconds: Bounds the measuring of each network on each runtime at each batch size.
        layers: Time every layer too, in eager PyTorch at the first batch size.
        told: Is told what is measured next.
        threads: Threads of the processor; None for as many as torch has.
        device: Where PyTorch runs; None for where the inputs are.
        dtype: torch.bfloat16 or torch.float16 for weights, inputs and products; None for the networks' own.
        channels_last: Keep images as NHWC in PyTorch.
        cuda_graphs: Replay the kernels of a pass as one CUDA graph in PyTorch.
        optimized: Time in PyTorch what `lrpet.optimize` makes of each network, the first one included; else the networks as
            they are. The other runtimes optimise networks themselves.

    Returns:
        A `Bench`: printed, it is a table; `save` writes JSON, `plot` a picture.

    Raises:
        ValueError: no networks, an unknown runtime, a runtime that cannot do what is asked, or a device that is not there.
        ImportError: a runtime is not installed.
    """
    conditions = Conditions(threads, device, dtype, channels_last, cuda_graphs, optimized)
    inputs = Inputs.of(example_inputs)
    if not models:
        raise ValueError("models is empty: give {name: network}, such as {'dense': model, 'compact': compact}")
    if not runtimes:
        raise ValueError("runtimes is empty: give one or more of eager, compile, onnxruntime, openvino")
    sizes = [batch_of(inputs)] if batch_sizes is None else list(batch_sizes)
    if not sizes:
        raise ValueError("batch_sizes is empty: give one or more sizes, or leave it out")
    for runtime in runtimes:
        check_runtime(runtime, conditions.inputs(inputs).device)
        conditions.check(runtime, inputs)
    smallest = at_batch(inputs, min(sizes))
    networks = {name: unwrapped(model) for name, model in models.items()}
    seen = {name: observe(network, smallest) for name, network in networks.items()}
    costs = {name: _cost(network, seen[name], examples=min(sizes)) for name, network in networks.items()}
    rows: list[Row] = []
    timed: tuple[LayerRow, ...] = ()
    with torch.no_grad(), conditions.in_force(), tempfile.TemporaryDirectory() as folder:
        for runtime in runtimes:
            forms = conditions.networks(networks, smallest, runtime)
            for size in sizes:
                told(f"{runtime}, batch size {size}")
                given = conditions.inputs(at_batch(inputs, size), runtime)
                files = {name: Path(folder) / f"{i}-{size}.onnx" for i, name in enumerate(networks)}
                times, memory = _raced(forms, given, files, runtime, conditions, seconds)
                rows += rows_of(times, memory, costs, runtime=runtime, batch_size=size)
        if layers:
            told("layers")
            given = conditions.inputs(at_batch(inputs, sizes[0]))
            timed = layer_rows(conditions.networks(networks, smallest), given, seen, seconds=seconds)
        where = machine(conditions.inputs(inputs).device)
    return Bench(tuple(rows), timed, {**where, "conditions": conditions.said()})


def _cost(network: nn.Module, seen: Observation, *, examples: int) -> Cost:
    """Return what a network costs, by a pass of so many examples."""
    return Cost(size=saved_bytes(network), macs=seen.macs // examples, params=seen.params)


def _raced(
    forms: Mapping[str, nn.Module],
    inputs: Inputs,
    files: Mapping[str, Path],
    runtime: Runtime,
    conditions: Conditions,
    seconds: float,
) -> tuple[dict[str, list[float]], dict[str, int | None]]:
    """Return the milliseconds of every round of each network, and the bytes that each takes.

    `forms` and `inputs` are what the runtime gets. ONNX files that are not there yet are written.
    """
    torch.compiler.reset()
    passes: dict[str, Pass] = {}
    for name, form in forms.items():
        if runtime in FROM_FILE:
            if not files[name].exists():
                export(form, inputs, files[name])
            passes[name] = session(files[name], inputs, runtime, precision=conditions.precision)
        else:
            passes[name] = ready(form, inputs, runtime, cuda_graphs=conditions.cuda_graphs)
    times = raced(passes, seconds=seconds, device=inputs.device)
    memory: dict[str, int | None] = {}
    for name, form in forms.items():
        if runtime in FROM_FILE:
            memory[name] = resident_growth(
                files[name], arrays(inputs), runtime, threads=torch.get_num_threads(), precision=conditions.precision
            )
        elif conditions.cuda_graphs:
            memory[name] = None  # a graph has its memory before it is replayed
        elif inputs.device.type == "cuda":
            memory[name] = cuda_memory(form, passes[name], inputs.device)
        else:
            memory[name] = eager_memory(form, inputs) if runtime == "eager" else None
    return times, memory
