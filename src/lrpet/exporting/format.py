"""What the formats have in common."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

#: The bound of a batch size that needs none: torch 2.7 refuses to trace without one.
UNBOUNDED = 2**31 - 1

Run = Callable[[Sequence[Tensor]], list[Tensor]]
"""From the inputs of an exported network to its outputs, both in the order of their names."""


@dataclass(frozen=True)
class Outside:
    """What of an exported network is seen from outside."""

    inputs: Mapping[str, tuple[int, ...]]
    """{name: shape}, in order."""
    outputs: tuple[str, ...]
    batched: frozenset[str]
    """The inputs whose first size is free."""


class Format(Protocol):
    """A module that writes one format and reads it back."""

    @property
    def LIBRARIES(self) -> tuple[str, ...]:
        """Return the packages whose versions go with a file."""

    @property
    def MAX_BATCH(self) -> int:
        """Return the bound of a free batch size."""

    def check(self) -> None:
        """Raise ImportError that says what to install where something is missing."""

    def write(self, program: torch.export.ExportedProgram, path: Path, outside: Outside) -> dict[str, str]:
        """Write a traced network and return what is worth keeping of how that was done."""

    def runner(self, path: Path) -> Run:
        """Read a file and return a function from its inputs to its outputs."""


def check_torch() -> None:
    """Raise ImportError if torch is older than exporters need, 2.7."""
    if torch.__version__ < "2.7":  # compares version numbers, not text
        raise ImportError(f"export needs torch 2.7 or newer, and this is {torch.__version__}: update torch")


def require(*modules: str, extra: str) -> None:
    """Import the modules; raise ImportError that says what to install if one is missing."""
    for module in modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            missing = (error.name or module).partition(".")[0]
            raise ImportError(
                f"{missing} is not installed, which this format needs: pip install 'lrpet[{extra}]'"
            ) from error
