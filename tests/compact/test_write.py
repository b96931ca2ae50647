"""Files and folders that appear whole or not at all, and are equal where they hold equal weights."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import lrpet
from lrpet.compact import write
from lrpet.compact.write import written, written_folder
from saved_networks import compact_tied


def test_all_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file, its folder, the rename, and then the folder that lists the new name."""
    events: list[tuple[str, str]] = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        events.append(("sync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name.split(".")[-1]))
        fsync(descriptor)

    def replaced(source: Path, target: Path) -> None:
        events.append(("rename", Path(target).name))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    with written_folder(tmp_path / "folder") as temporary:
        (temporary / "inside").write_text("a")
        name = temporary.name.split(".")[-1]
    assert events == [("sync", "inside"), ("sync", name), ("rename", "folder"), ("sync", tmp_path.name)]
    events.clear()
    with written(tmp_path / "file") as path:
        path.write_text("b")
        name = path.name.split(".")[-1]
    assert events == [("sync", name), ("rename", "file"), ("sync", tmp_path.name)]


def test_a_folder_that_came_into_being_meanwhile_stays(tmp_path: Path) -> None:
    folder = tmp_path / "folder"

    def write() -> None:
        with written_folder(folder) as temporary:
            (temporary / "mine").touch()
            folder.mkdir()
            (folder / "theirs").touch()

    with pytest.raises(FileExistsError, match="meanwhile"):
        write()
    assert [path.name for path in folder.iterdir()] == ["theirs"]
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_files_have_the_usual_permissions(tmp_path: Path) -> None:
    with written_folder(tmp_path / "folder") as temporary:
        (temporary / "private").touch(mode=0o600)
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / "folder" / "private").stat().st_mode & 0o777 == 0o666 & ~mask
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o777 & ~mask


def test_overwriting_keeps_other_files_if_asked_and_a_link_a_link(tmp_path: Path) -> None:
    for kept in (False, True):
        real, link = tmp_path / f"real{kept}", tmp_path / f"link{kept}"
        real.mkdir()
        (real / "notes").write_text("mine")
        (real / "weights").write_text("old")
        link.symlink_to(real)
        with written_folder(link, overwrite=True, keep_others=kept) as temporary:
            (temporary / "weights").write_text("new")
        assert link.is_symlink()
        assert (real / "weights").read_text() == "new"
        assert (real / "notes").exists() == kept


KILLED = """
import os, signal, sys
from pathlib import Path
from lrpet.compact import write
from lrpet.compact.write import written, written_folder
with written_folder(Path(sys.argv[1]), overwrite=True) as folder, written(Path(sys.argv[2])) as file:
    (folder / "half").touch()
    file.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_next_writer_removes_what_killed_ones_left_and_nothing_else(tmp_path: Path) -> None:
    folder, file = tmp_path / "folder", tmp_path / "file"
    others = {".folder.settings", ".folder.12345678", ".folder.more.12345678.writing", "folder.writing"}
    for name in others:
        (tmp_path / name).mkdir()
    subprocess.run([sys.executable, "-c", KILLED, str(folder), str(file)])
    assert len(list(tmp_path.iterdir())) == len(others) + 2
    with written_folder(folder) as living:  # by a descriptor of its own, as another process would have it
        (living / "first").touch()
        for _ in range(2):
            with written_folder(folder, overwrite=True) as other:
                (other / "second").touch()
        shutil.rmtree(folder)
    with written(file) as temporary:
        temporary.write_text("whole")
    assert {path.name for path in tmp_path.iterdir()} == {*others, "folder", "file"}
    assert [path.name for path in folder.iterdir()] == ["first"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux exchanges folders at once")
def test_a_folder_that_is_overwritten_is_there_at_any_moment(tmp_path: Path) -> None:
    folder, ended = tmp_path / "folder", threading.Event()
    folder.mkdir()
    missing = []

    def watch() -> None:
        while not ended.is_set():
            missing.append(not folder.exists())

    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(200):
        with written_folder(folder, overwrite=True, keep_others=True):
            pass
    ended.set()
    watcher.join()
    assert len(missing) > 200
    assert not any(missing)


@pytest.mark.parametrize("killed", [False, True])
def test_between_two_renames_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: bool) -> None:
    """Where folders cannot be exchanged, and the second rename fails, or never comes."""
    folder, replace, remove = tmp_path / "folder", os.replace, write._remove
    folder.mkdir()
    (folder / "mine").touch()

    def replaced(source: Path, target: Path) -> None:
        if source.name == "new":
            raise OSError("no")
        replace(source, target)

    def overwrite() -> None:
        with written_folder(folder, overwrite=True):
            pass

    monkeypatch.setattr(write, "exchanged", lambda *_: False)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replaced)
        if killed:
            patch.setattr(write, "_remove", lambda *_: None)
        with pytest.raises(OSError, match="no"):
            overwrite()
    assert folder.exists() != killed
    if killed:
        with pytest.raises(FileExistsError), written_folder(folder):
            pass
    assert write._remove is remove
    assert [path.name for path in folder.iterdir()] == ["mine"]
    overwrite()
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert not list(folder.iterdir())


def test_equal_weights_are_equal_files(tmp_path: Path) -> None:
    """safetensors itself writes the names of tied weights in a random order."""
    compact = compact_tied()
    files = {(lrpet.save(compact, tmp_path / str(i)) / "model.safetensors").read_bytes() for i in range(12)}
    assert len(files) == 1
    header = files.pop()[8:200].decode("ascii", "replace")
    assert header.startswith('{"__metadata__":{"format":"pt","')
