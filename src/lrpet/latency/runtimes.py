"""The runtimes that layers and networks are timed on."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lrpet.latency.measure import latency

Runtime = Literal["eager", "compile", "onnxruntime"]


def raced(contenders: dict[str, nn.Module], x: Tensor, runtime: Runtime, seconds: float) -> dict[str, float]:
    """Return the median milliseconds of one pass of each through a runtime, the contenders taking turns."""
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
