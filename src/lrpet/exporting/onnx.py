"""ONNX files, run in ONNX Runtime (extra `lrpet[onnx]`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from lrpet.exporting.format import UNBOUNDED, Outside, Run, check_torch, require
from lrpet.exporting.portable import Portable, said, traced
from lrpet.layers.inputs import Inputs

LIBRARIES = ("onnx", "onnxscript", "onnxruntime")
MAX_BATCH = UNBOUNDED


def check() -> None:
    """Raise ImportError that says what to install where something is missing."""
    require("onnx", "onnxscript", "onnxruntime", extra="onnx")


def write(program: torch.export.ExportedProgram, path: Path, outside: Outside) -> dict[str, str]:
    """Write the program; above 2 GB the weights go to a file of their own beside it."""
    # One input names the dimension that all of them share.
    free = {name: {0: "batch"} for name in [name for name in outside.inputs if name in outside.batched][:1]}
    exported = torch.onnx.export(
        program,
        dynamo=True,
        verbose=False,
        input_names=list(outside.inputs),
        output_names=list(outside.outputs),
        dynamic_shapes={name: free.get(name) for name in outside.inputs} if free else None,
    )
    assert exported is not None
    exported.save(str(path))
    return {}


def write_unchecked(network: nn.Module, inputs: Inputs, path: Path, names: Sequence[str]) -> None:
    """Write a network for inputs of exactly these shapes, under these names.

    Raises ValueError if torch.export or the exporter does not get through the network, ImportError if torch is too old.
    """
    check_torch()
    portable, tensors = Portable(network, inputs), inputs.tensors
    program = traced(portable, tensors, [False] * len(tensors), max_batch=None)
    outputs = tuple(f"y{i}" for i in range(len(program.graph_signature.user_outputs)))
    shapes = {name: tuple(tensor.shape) for name, tensor in zip(names, tensors, strict=True)}
    try:
        write(program, path, Outside(shapes, outputs, frozenset()))
    except Exception as error:
        raise ValueError(f"onnx does not take this {type(network).__name__}: {said(error)}") from error


def runner(path: Path) -> Run:
    """Read the file into ONNX Runtime, on the CPU, and return a function from its inputs to its outputs."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def run(tensors: Sequence[Tensor]) -> list[Tensor]:
        feed = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
        return [torch.from_numpy(array) for array in session.run(None, feed)]

    return run
