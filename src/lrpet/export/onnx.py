"""ONNX, checked against the network it was exported from (extra `lrpet[onnx]`)."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor, nn

TOLERANCE = 1e-4


@torch.no_grad()
def to_onnx(model: nn.Module, example: Tensor, path: str | os.PathLike[str], *, overwrite: bool = False) -> float:
    """Export `model`, in eval mode, to an ONNX file with a free batch size, and check the file in ONNX Runtime.

    Args:
        model: On the CPU, taking one tensor and returning one.
        example: An input for it, shape (batch, ...).
        path: Where the file goes; it appears only if it passes the check.
        overwrite: Replace a file that is there.

    Returns:
        The largest difference between the two outputs, over a batch of another size than the example's, relative to the
        largest output.

    Raises:
        FileExistsError: `path` exists and `overwrite` is not set.
        ValueError: ONNX Runtime's output differs by more than 1e-4.
    """
    import onnxruntime

    path = Path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists: choose another path, or pass overwrite=True")
    training = model.training
    model.eval()
    try:
        several = torch.cat([example, example[:1]])  # exporters take a batch of one for a constant
        program = torch.onnx.export(
            model,
            (several,),
            dynamo=True,
            verbose=False,
            input_names=["input"],
            output_names=["output"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
        assert program is not None
        temporary = path.with_name(f".{path.name}")
        try:
            program.save(str(temporary), external_data=False)
            session = onnxruntime.InferenceSession(str(temporary), providers=["CPUExecutionProvider"])
            probe = torch.randn(3, *example.shape[1:], dtype=example.dtype, generator=torch.Generator().manual_seed(0))
            expected = model(probe)
            (got,) = session.run(["output"], {"input": probe.numpy()})
            difference: float = ((torch.from_numpy(got) - expected).abs().max() / expected.abs().max()).item()
            if not difference <= TOLERANCE:
                raise ValueError(
                    f"the ONNX file's output differs from the network's by {difference:.1e} of its largest value"
                )
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    finally:
        model.train(training)
    return difference
