"""Write files and folders that appear whole or not at all, and are there after a power cut."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

#: The number of an error of the system, as older and newer releases of safetensors word it.
_SYSTEM_SAYS = re.compile(r"(?:code: |os error )(\d+)")


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """Yield a temporary file beside `path` that takes its place once the block has ended without an error."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        with storing(path):
            yield temporary
        temporary.chmod(0o666 & ~_umask())
        synced(temporary)
        temporary.replace(path)
        synced(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def written_folder(folder: Path, *, overwrite: bool = False, keep_others: bool = False) -> Iterator[Path]:
    """Yield a temporary folder that takes the place of `folder` once the block has ended without an error.

    With `keep_others`, files of the old folder that the new one does not have go along. A link to a folder stays a link.

    Raises FileExistsError if `folder` exists and `overwrite` is not set: before anything is written, or at the end, if it
    came into being meanwhile.
    """
    if folder.exists() and not overwrite:
        raise FileExistsError(f"{folder} exists: choose another folder, or remove it first")
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        with storing(folder):
            yield temporary
        temporary.chmod(0o777 & ~_umask())
        for path in [*temporary.rglob("*"), temporary]:
            if path.is_file():
                path.chmod(0o666 & ~_umask())
            synced(path)
        if folder.exists():
            if not overwrite:
                raise FileExistsError(f"{folder} came into being meanwhile: choose another folder")
            displaced = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
            os.replace(folder, displaced / "old")
            try:
                os.replace(temporary, folder)
            except OSError:
                os.replace(displaced / "old", folder)
                raise
            else:
                if keep_others:
                    _carry_over(displaced / "old", folder)
            finally:
                shutil.rmtree(displaced)
        else:
            os.replace(temporary, folder)
        synced(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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


def _carry_over(old: Path, new: Path) -> None:
    for path in old.iterdir():
        if not (new / path.name).exists():
            path.replace(new / path.name)


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


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
