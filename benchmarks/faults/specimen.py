"""What is damaged: files of one format, and the command that reads them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lrpet.cli import main


@dataclass(frozen=True)
class Specimen:
    """Files that are read together."""

    name: str
    make: Callable[[Path], None]
    """Writes them into an empty folder."""
    read: Callable[[Path], tuple[int, str | None]]
    """Reads them in a fork; returns the exit status, and a digest of what was read where there is one."""
    damaged: tuple[str, ...]
    """Patterns of the files that are damaged."""
    protected: tuple[str, ...] = ()
    """Patterns of the files of which a digest is kept, so that no change of theirs may go unseen."""
    weight: float = 1.0
    """How often it is damaged, in relation to the others."""


def status_of(words: Iterable[object]) -> int:
    """Run a command here and return its exit status."""
    try:
        return main([str(word) for word in words])
    except SystemExit as end:
        return int(end.code or 0)


def digest_of(value: Any) -> str:
    """Return a digest of nested dictionaries and lists of tensors and plain values."""
    found = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, Tensor):
            found.update(f"{value.dtype}{tuple(value.shape)}".encode())
            found.update(value.detach().reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
        elif isinstance(value, dict):
            for key in value:
                add(key)
                add(value[key])
        elif isinstance(value, list | tuple):
            found.update(f"{len(value)}".encode())
            for each in value:
                add(each)
        else:
            found.update(repr(value).encode())

    add(value)
    return found.hexdigest()
