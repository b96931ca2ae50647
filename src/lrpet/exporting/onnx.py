"""Export to ONNX, checked against the network that was exported (extra `lrpet[onnx]`)."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor, nn

from lrpet.compact.write import written
from lrpet.layers import evaluating

TOLERANCE = 1e-4
MAX_BATCH = 2**31 - 1  # torch 2.7 refuses a batch size without a bound


@torch.no_grad()
def to_onnx(model: nn.Module, example: Tensor, path: str | os.PathLike[str], *, overwrite: bool = False) -> float:
    """Export `model`, in eval mode, to an ONNX file with a free batch size, and check the file in ONNX Runtime.

    Args:
        model: A network on the CPU that takes one tensor and returns one.
        example: An input for `model`, of shape (batch, ...).
        path: Where the file goes. The file appears only if it passes the check.
        overwrite: Replace a file that is there.

    Returns:
        The largest difference between the two outputs, relative to the largest output. It is measured on a batch whose
        size is not the example's.

    Raises:
        FileExistsError: `path` exists and `overwrite` is not set.
        ValueError: ONNX Runtime's output differs by more than 1e-4.
        ImportError: ONNX Runtime or onnxscript is not installed, or torch is older than 2.7.
    """
    if torch.__version__ < "2.7":  # compares version numbers, not text
        raise ImportError(
            f"ONNX export needs torch 2.7 or newer, and this is {torch.__version__}: "
            "the exporter of older versions does not fit today's onnxscript"
        )
    import onnxruntime

    path = Path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists: choose another path, or pass overwrite=True")
    several = torch.cat([example, example[:1]])  # exporters take a batch of one for a constant
    probe = torch.randn(
        len(example) + 2, *example.shape[1:], dtype=example.dtype, generator=torch.Generator().manual_seed(0)
    )
    with evaluating(model), written(path) as temporary:
        program = torch.onnx.export(
            model,
            (several,),
            dynamo=True,
            verbose=False,
            input_names=["input"],
            output_names=["output"],
            dynamic_shapes=({0: torch.export.Dim("batch", max=MAX_BATCH)},),
        )
        assert program is not None
        program.save(str(temporary), external_data=False)
        session = onnxruntime.InferenceSession(str(temporary), providers=["CPUExecutionProvider"])
        expected = model(probe)
        (got,) = session.run(["output"], {"input": probe.numpy()})
        difference: float = ((torch.from_numpy(got) - expected).abs().max() / expected.abs().max()).item()
        if not difference <= TOLERANCE:
            raise ValueError(
                f"the output of the ONNX file differs from the network's by {difference:.1e} of its largest value, "
                f"more than the {TOLERANCE:.0e} allowed: the exporter does not keep this network's function"
            )
    return difference
