"""What only some systems can do: exchange two folders at once, and hold a lock on a folder that ends with the process."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from pathlib import Path

_HERE = -100  # AT_FDCWD: paths are taken as they are everywhere else
_EXCHANGE = 2  # RENAME_EXCHANGE
#: What a kernel or a file system says that cannot exchange names.
_UNABLE = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM}


def exchanged(one: Path, other: Path) -> bool:
    """Exchange the names of two files or folders at one moment; return False, and change nothing, where that cannot be."""
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "renameat2"):
        return False
    if library.renameat2(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNABLE:
        return False
    raise OSError(number, os.strerror(number), str(one), None, str(other))


def locked(folder: Path, *, wait: bool) -> int | None:
    """Lock a folder, and return the descriptor that holds the lock until it is closed or the process ends.

    None is returned where another process holds it and this one does not `wait`, where the folder is gone, and where system
    or file system have no such locks.
    """
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
