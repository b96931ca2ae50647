"""Something that was written to do harm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Hostile:
    """Something hostile in the place of whole files."""

    kind: str
    """The specimen whose files are forged."""
    name: str
    forge: Callable[[Path], object]
    """Forges them in their folder."""
    harmless: bool = False
    """Whether it may as well be read, since what it asks for is never looked at."""


def replaced_text(folder: Path, *, name: str, text: str) -> None:
    """Put a text in the place of a file."""
    (folder / name).write_text(text, encoding="utf-8")


def replaced_bytes(folder: Path, *, name: str, content: bytes) -> None:
    """Put bytes in the place of a file."""
    (folder / name).write_bytes(content)
