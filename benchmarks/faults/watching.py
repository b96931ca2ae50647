"""What a process does to files, told before it does it; and a process that dies there."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lrpet.compact import files
from lrpet.train import tree

#: What Python says of its own accord before it does it, and what of that changes files.
CHANGING = {
    "open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.utime",
}  # fmt: skip
#: The function by which safetensors are written, wherever it is known; it does not say so itself.
WRITERS = ((tree, "save_file"), (files, "save_model"))

Seen = Callable[[str, Path], None]
"""What is told of an operation on files, before it is done, and the path that it names."""


def watch(folder: Path, seen: Seen) -> None:
    """Call `seen` before every operation in this process that changes a file or folder in `folder`, from here on."""
    root, sync = str(folder), os.fsync

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in CHANGING or (event == "open" and not _writes(arguments)):
            return
        path = arguments[0]
        if isinstance(path, int):
            path = f"/proc/self/fd/{path}"
        name = os.fsdecode(path)
        if name.startswith(root) or not name.startswith("/"):  # what is not is named below an open folder
            seen(event, Path(name))

    def synced(descriptor: int) -> None:
        seen("os.fsync", Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        sync(descriptor)

    sys.addaudithook(hook)
    vars(os)["fsync"] = synced
    for module, name in WRITERS:
        vars(module)[name] = _told(vars(module)[name], seen)


def _told(write: Callable[..., None], seen: Seen) -> Callable[..., None]:
    """Tell of a writer of safetensors: before it begins, and when half of its file is there."""

    def told(value: Any, path: str | Path, **options: Any) -> None:
        seen("write", Path(path))
        write(value, path, **options)
        whole = Path(path).read_bytes()
        os.truncate(path, len(whole) // 2)
        seen("written by half", Path(path))
        Path(path).write_bytes(whole)

    return told


def _writes(arguments: tuple[Any, ...]) -> bool:
    return bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def dying(folder: Path, number: int) -> None:
    """Let this process be killed before its operation of this number on files in `folder`, counted from 0."""
    left = number

    def seen(event: str, path: Path) -> None:
        nonlocal left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    watch(folder, seen)
