"""OpenVINO's intermediate representation, an .xml and a .bin beside it (extra `lrpet[openvino]`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from lrpet.exporting.format import UNBOUNDED, Outside, Run, require
from lrpet.exporting.sessions import openvino_core

LIBRARIES = ("openvino",)
MAX_BATCH = UNBOUNDED


def check() -> None:
    """Raise ImportError that says what to install where something is missing."""
    require("openvino", extra="openvino")


def write(program: torch.export.ExportedProgram, path: Path, outside: Outside) -> dict[str, str]:
    """Write the program, its weights in the precision that they have."""
    import openvino

    model = openvino.convert_model(program)
    for port, name in zip(model.inputs, outside.inputs, strict=True):
        port.get_tensor().set_names({name})
    for port, name in zip(model.outputs, outside.outputs, strict=True):
        port.get_tensor().add_names({name})
    # The conversion frees every size of what has a free batch.
    shapes = {
        name: openvino.PartialShape([-1, *shape[1:]] if name in outside.batched else list(shape))
        for name, shape in outside.inputs.items()
    }
    model.reshape(shapes)
    openvino.save_model(model, path, compress_to_fp16=False)
    return {}


def runner(path: Path) -> Run:
    """Compile the file for the CPU, in float32, and return a function from its inputs to its outputs."""
    # Processors that have bfloat16 or float16 use it unless they are told not to.
    compiled = openvino_core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(tensors: Sequence[Tensor]) -> list[Tensor]:
        results = compiled([tensor.numpy() for tensor in tensors], share_inputs=False)
        return [torch.from_numpy(results[port].copy()) for port in compiled.outputs]

    return run
