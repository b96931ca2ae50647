"""Reading a folder that may be overwritten meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
#: How often a folder is read that is overwritten meanwhile.
PATIENCE = 10


def read_steady(marker: Path, read: Callable[[], T]) -> T:
    """Return what `read` returns or raises of a folder that stayed one while it was read: its file `marker` says so.

    A folder that was overwritten meanwhile is read again. Raises ValueError where it is overwritten again and again.
    """
    for _ in range(PATIENCE):
        before = _identity(marker)
        try:
            found = read()
        except (OSError, ValueError):
            if _identity(marker) == before:
                raise
            continue
        if _identity(marker) == before:
            return found
    raise ValueError(
        f"{marker.parent} is overwritten faster than it can be read: read it when whoever writes it has ended"
    )


def _identity(marker: Path) -> tuple[int, int, int] | None:
    """Return what tells one writing of a file from another; None if there is none."""
    try:
        found = marker.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns
