"""Write files and folders that appear whole or not at all, and are there after a power cut.

What is written stands in a folder beside its target, `.NAME.RANDOM.writing`, until it is whole. Its writer holds a lock on that
folder, which ends with the process. The next writer of the target removes the folders that nobody holds.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from lrpet.compact.exchange import exchanged, locked

_SUFFIX = ".writing"
#: The number of an error of the system, as older and newer releases of safetensors word it.
_SYSTEM_SAYS = re.compile(r"(?:code: |os error )(\d+)")


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """Yield an empty temporary file that takes the place of `path` once the block has ended without an error."""
    with beside(path) as place:
        temporary = place / path.name
        temporary.touch()
        mode = temporary.stat().st_mode & 0o777  # by the umask, which only a file shows without a change
        with storing(path):
            yield temporary
        temporary.chmod(mode)
        synced(temporary)
        os.replace(temporary, path)
        synced(path.parent)


@contextmanager
def written_folder(folder: Path, *, overwrite: bool = False, keep_others: bool = False) -> Iterator[Path]:
    """Yield a temporary folder that takes the place of `folder` once the block has ended without an error.

    With `keep_others`, files of the old folder that the new one does not have go along. A link to a folder stays a link.
    On Linux the old and the new folder are exchanged at once, so that one of them is there at any moment.

    Raises FileExistsError if `folder` exists and `overwrite` is not set: before anything is written, or at the end, if it
    came into being meanwhile.
    """
    if folder.exists() and not overwrite:
        raise FileExistsError(f"{folder} exists: choose another folder, or remove it first")
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with beside(folder) as place:
        new = place / "new"
        new.mkdir()
        mode = new.stat().st_mode & 0o777
        with storing(folder):
            yield new
        new.chmod(mode)
        for path in new.rglob("*"):
            if path.is_file():
                path.chmod(mode & 0o666)
                synced(path)
        if keep_others and folder.is_dir():
            _take_along(folder, new)
        for inner, _, _ in os.walk(new, topdown=False):
            synced(Path(inner))
        if folder.exists() and not overwrite:
            raise FileExistsError(f"{folder} came into being meanwhile: choose another folder")
        _put(new, folder, place)
        synced(folder.parent)


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """Yield a folder beside `path` for what is being written, and remove it after the block.

    Folders that killed writers of `path` left are removed first, those of living ones never.
    """
    for left in _left(path):
        if (lock := locked(left, wait=False)) is not None:
            _remove(left, path)
            os.close(lock)
    place, lock = _claimed(path)
    try:
        yield place
    finally:
        _remove(place, path)
        if lock is not None:
            os.close(lock)


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Raise OSError where safetensors says, in an error of its own, that the disk is full or a file cannot be written."""
    try:
        yield
    except SafetensorError as error:
        number = _SYSTEM_SAYS.search(str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), f"writing {path} failed: {error}") from error


def synced(path: Path) -> None:
    """Wait until a file, or the list of a folder's files, is on the disk. Not every system can do it for folders."""
    folder = path.is_dir()
    if folder and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY if folder or os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    except OSError:
        if not folder:
            raise
    finally:
        os.close(descriptor)


def _left(path: Path) -> list[Path]:
    """Return the folders in which something is, or was, being written for `path`."""
    ours = re.compile(rf"\.{re.escape(path.name)}\.[a-z0-9_]+{re.escape(_SUFFIX)}")
    with suppress(OSError):
        return [each for each in path.parent.iterdir() if ours.fullmatch(each.name)]
    return []


def _claimed(path: Path) -> tuple[Path, int | None]:
    """Make a folder for what is to be written, and return it with its lock; None where there are no locks."""
    while True:
        place = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=_SUFFIX, dir=path.parent))
        lock = locked(place, wait=True)
        if place.exists():
            return place, lock
        if lock is not None:  # another writer removed the folder before it was locked
            os.close(lock)


def _remove(place: Path, path: Path) -> None:
    """Remove the folder of a writer; what it had moved away from `path`, and not replaced, goes back."""
    old = _displaced(place, path)
    if old.exists() and not path.exists():
        os.replace(old, path)
    shutil.rmtree(place, ignore_errors=True)


def _put(new: Path, folder: Path, place: Path) -> None:
    """Let `new` take the place of `folder`, which goes into `place` if it exists."""
    if folder.exists() and exchanged(new, folder):
        return
    if folder.exists():
        os.replace(folder, _displaced(place, folder))
    os.replace(new, folder)


def _displaced(place: Path, path: Path) -> Path:
    """Return where `path` is between two renames, where two folders cannot be exchanged."""
    return place / f"{path.name}.displaced"


def _take_along(old: Path, new: Path) -> None:
    """Link what `new` lacks of the files in `old` into it."""
    for path in old.iterdir():
        target = new / path.name
        if os.path.lexists(target):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, target, symlinks=True, copy_function=_linked)
        else:
            _linked(path, target)


def _linked(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # no hard links here
        shutil.copy2(source, target, follow_symlinks=False)
        if not os.path.islink(target):
            synced(Path(target))
