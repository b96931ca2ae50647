"""File systems of their own for a fault: small ones in memory, and ext4 in a file whose power can be cut."""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: The request by which ext4 stops at once, and its way of doing that: nothing that waits is written, not even the journal.
SHUTDOWN, WITHOUT_FLUSH = 0x8004587D, 2
#: Bytes of an ext4 file system.
SIZE = 24 * 2**20


class NotAllowedError(Exception):
    """This machine does not let this user mount."""


@contextmanager
def in_memory(place: Path, *, size: int) -> Iterator[Path]:
    """Mount a file system of so many bytes at `place` inside the block. Raises NotAllowedError."""
    place.mkdir()
    _run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place))
    try:
        yield place
    finally:
        _run("umount", "--lazy", str(place))


def enlarge(place: Path, *, size: int) -> None:
    """Give a file system in memory more room."""
    _run("mount", "-o", f"remount,size={size}", str(place))


def make_ext4(image: Path) -> None:
    """Make an empty ext4 file system in a file. Raises NotAllowedError."""
    with image.open("wb") as file:
        file.truncate(SIZE)
    _run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(image))


@contextmanager
def mounted(image: Path, place: Path, options: str) -> Iterator[Path]:
    """Mount an ext4 file system at `place` inside the block. Raises NotAllowedError."""
    place.mkdir(exist_ok=True)
    _run("mount", "-t", "ext4", "-o", ",".join(filter(None, ("loop", options))), str(image), str(place))
    try:
        yield place
    finally:
        _run("umount", str(place))


def cut_power(place: Path) -> None:
    """Stop an ext4 file system at once: what it has not written yet is lost, and nothing can be written any more."""
    folder = os.open(place, os.O_RDONLY)
    fcntl.ioctl(folder, SHUTDOWN, struct.pack("I", WITHOUT_FLUSH))
    os.close(folder)


def refusal(*, ext4: bool) -> str | None:
    """Say why nothing can be mounted here; None if it can."""
    with tempfile.TemporaryDirectory(prefix="mount-") as temporary:
        place = Path(temporary)
        try:
            if not ext4:
                with in_memory(place / "mount", size=2**20):
                    return None
            make_ext4(place / "image")
            with mounted(place / "image", place / "mount", ""):
                cut_power(place / "mount")
        except (NotAllowedError, OSError) as error:
            return str(error)
    return None


def _run(*words: str) -> None:
    if shutil.which(words[0]) is None:
        raise NotAllowedError(f"there is no {words[0]} here")
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise NotAllowedError(f"{words[0]} failed: {' '.join(done.stderr.split())}")
