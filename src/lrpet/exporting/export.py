"""A network → a file in another format, checked against the network."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from lrpet.exporting.artefact import Artefact, described, manifest_of, written_beside
from lrpet.exporting.format import check_torch
from lrpet.exporting.formats import FORMATS, format_of
from lrpet.exporting.job import Job

TOLERANCE = 1e-4


@torch.no_grad()
def export(
    model: nn.Module,
    path: str | os.PathLike[str],
    example_inputs: Any,
    *,
    format: Literal["onnx", "pt2", "openvino", "executorch"] | None = None,
    inputs: Iterable[Any] | None = None,
    dynamic_batch: bool = True,
    tolerance: float = TOLERANCE,
    overwrite: bool = False,
) -> Artefact:
    """Write a network, in eval mode, in another format, and check the file against the network.

    The file is read back and run beside the network before it takes its name: on random inputs, and on those that are
    given. A manifest beside it, with .json after the file's name, keeps what came of that, the names and shapes of inputs
    and outputs, versions and checksums. `lrpet.exporting.verify` checks a file against its manifest.

    Args:
        model: The network; untouched. Inputs get the names of its forward's parameters.
        path: Where the file goes; the suffix says the format.
        example_inputs: What its forward takes, as for `lrpet.plan`. Random inputs are drawn with the mean and deviation of
            each tensor of floats, and between the least and the greatest of each tensor of integers; booleans stay.
        format: "onnx" (.onnx), "pt2" (.pt2, torch.export), "openvino" (.xml, and a .bin beside it) or "executorch" (.pte).
        inputs: Batches of real inputs, each of the kind of `example_inputs`, that the file is checked on besides.
        dynamic_batch: Leave the batch size free. The batch is the first dimension of the first tensor, and of all tensors
            that have the same first size. ExecuTorch takes up to 16 rows, or as many as the example has.
        tolerance: The largest error that passes, relative to the largest output.
        overwrite: Replace files that are there.

    Returns:
        The file and its manifest.

    Raises:
        FileExistsError: a file is in the way and `overwrite` is not set.
        ValueError: the format is unknown, the network cannot be exported, perhaps with a free batch size only, or the
            file's outputs are not the network's. Nothing is left then.
        ImportError: the format's library is not installed, or torch is older than 2.7.
    """
    path = Path(path)
    name = format_of(path, format)
    check_torch()
    FORMATS[name].check()
    job = Job.of(model, example_inputs, name, dynamic=dynamic_batch)
    with written_beside(path, overwrite=overwrite) as temporary:
        notes = job.write(temporary)
        checks = [job.check(temporary, job.random(), on="random")]
        if inputs is not None:
            checks.append(job.check(temporary, job.given(inputs), on="given"))
        for check in checks:
            if not check.rows:
                raise ValueError("inputs has no batches: give some, or leave it out")
            if not check.error <= tolerance:
                raise ValueError(
                    f"the output of {path.name} differs from the network's by {check.error:.1e} of its largest value on "
                    f"{check.on} inputs, more than the tolerance of {tolerance:.0e}: the file was not kept"
                )
        files = {file.name: described(file) for file in sorted(temporary.parent.iterdir())}
        found = {"tolerance": tolerance, "checks": [check.to_dict() for check in checks], "files": files}
        manifest = {**job.manifest(), **notes, **found}
        manifest_of(temporary).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return Artefact(path, manifest)
