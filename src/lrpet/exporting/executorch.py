"""ExecuTorch programs, lowered to XNNPACK where the installation has it (extra `lrpet[executorch]`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lrpet.exporting.format import Outside, Run, require

LIBRARIES = ("executorch",)
MAX_BATCH = 16  # memory is set aside for the largest batch


def check() -> None:
    """Raise ImportError that says what to install where something is missing."""
    require("executorch.exir", "executorch.runtime", extra="executorch")


def write(program: torch.export.ExportedProgram, path: Path, outside: Outside) -> dict[str, str]:
    """Lower the program and write it; say to what it was lowered."""
    from executorch.exir import to_edge_transform_and_lower

    partitioners = _partitioners()
    lowered = to_edge_transform_and_lower(program, partitioner=partitioners).to_executorch()
    with path.open("wb") as file:
        lowered.write_to_file(file)
    return {"backend": "XNNPACK" if partitioners else "portable kernels"}


def runner(path: Path) -> Run:
    """Read the program into ExecuTorch's runtime and return a function from its inputs to its outputs."""
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(path).load_method("forward")
    if method is None:
        raise ValueError(f"{path} has no method forward")

    def run(tensors: Sequence[Tensor]) -> list[Tensor]:
        outputs = method.execute([tensor.contiguous() for tensor in tensors])
        return [output.clone() for output in outputs]  # the next run writes over them

    return run


def _partitioners() -> list[Any]:
    try:
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.runtime import Runtime
    except ImportError:
        return []
    return [XnnpackPartitioner()] if Runtime.get().backend_registry.is_available("XnnpackBackend") else []
