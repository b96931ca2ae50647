"""Files of torch.export, read by torch.export.load and compiled by AOTInductor; they need torch alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from lrpet.exporting.format import UNBOUNDED, Outside, Run

LIBRARIES = ()
MAX_BATCH = UNBOUNDED


def check() -> None:
    """Do nothing: torch is always there."""


def write(program: torch.export.ExportedProgram, path: Path, outside: Outside) -> dict[str, str]:
    """Write the program. Its module is called as the network was in the example: by position or by keyword."""
    torch.export.save(program, path)
    return {}


def runner(path: Path) -> Run:
    """Read the file and return a function from its inputs to its outputs."""
    program = torch.export.load(path)
    module = program.module()
    spec = program.call_spec.in_spec
    assert spec is not None
    positional, keyword = spec.children()
    names = keyword.context

    def run(tensors: Sequence[Tensor]) -> list[Tensor]:
        count = positional.num_leaves
        return tree_leaves(module(*tensors[:count], **dict(zip(names, tensors[count:], strict=True))))

    return run
