"""ONNX files in ONNX Runtime and in OpenVINO, on the CPU, and the memory that they take there.

Imports no torch, so that a process of its own, which measures memory, holds little else:

    python sessions.py FILE.onnx ARRAYS.npz RUNTIME THREADS PRECISION      prints bytes
"""

from __future__ import annotations

import functools
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

Precision = Literal["f32", "bf16", "f16"]
Session = Callable[[], list[Any]]
"""One pass, which returns NumPy arrays."""

_STATUS = Path("/proc/self/status")


def opened(file: Path, arrays: Sequence[Any], runtime: str, *, threads: int, precision: Precision) -> Session:
    """Load an ONNX file whose inputs are called x0, x1, …, and return a pass on these arrays.

    `precision` is that of OpenVINO's products; ONNX Runtime computes what the file says.
    """
    if runtime == "openvino":
        return _openvino(file, arrays, threads, precision)
    return _onnxruntime(file, arrays, threads)


@functools.cache
def openvino_core() -> Any:
    """Return OpenVINO's `Core`, one for the whole process.

    Each Core's CPU plugin sets a stack for signal handlers, and puts back the one it found when it goes. Several Cores that
    do not go in the reverse order leave a freed stack in place, so that the next handled signal ends the process.
    """
    import openvino

    return openvino.Core()


def _onnxruntime(file: Path, arrays: Sequence[Any], threads: int) -> Session:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Else the threads of the one that has just run would slow the next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    given = {
        each.name: arrays[int(each.name[1:])] for each in session.get_inputs()
    }  # unused inputs are not in the file
    return lambda: session.run(None, given)


def _openvino(file: Path, arrays: Sequence[Any], threads: int, precision: Precision) -> Session:
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": precision,  # by default some processors get bf16, and other results
    }
    compiled = openvino_core().compile_model(str(file), "CPU", settings)
    given = {each.get_any_name(): arrays[int(each.get_any_name()[1:])] for each in compiled.inputs}
    request = compiled.create_infer_request()
    return lambda: list(request.infer(given, share_inputs=True, share_outputs=True).values())


def resident_growth(
    file: Path, arrays: Sequence[Any], runtime: str, *, threads: int, precision: Precision
) -> int | None:
    """Return the bytes by which a fresh process grows, at its largest, when it loads an ONNX file and runs it.

    None where the system does not tell a process its size (only Linux does).
    """
    import numpy as np

    if not _STATUS.is_file():
        return None
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder) / "arrays.npz"
        np.savez(inputs, *arrays)
        # -P: the folder of this file stays off the import path, where its `profile` would hide Python's own.
        command = [sys.executable, "-P", __file__, str(file), str(inputs), runtime, str(threads), precision]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def resident(line: str) -> int:
    """Return a size of this process in bytes: VmRSS is that of now, VmHWM the largest ever."""
    (size,) = (each.split()[1] for each in _STATUS.read_text().splitlines() if each.startswith(f"{line}:"))
    return 1024 * int(size)


def _main(file: str, inputs: str, runtime: str, threads: str, precision: Any) -> None:
    import numpy as np

    __import__(runtime)
    with np.load(inputs) as loaded:
        arrays = [loaded[name] for name in loaded.files]
    before = resident("VmRSS")
    run = opened(Path(file), arrays, runtime, threads=int(threads), precision=precision)
    for _ in range(3):
        run()
    print(max(0, resident("VmHWM") - before))


if __name__ == "__main__":
    _main(*sys.argv[1:])
