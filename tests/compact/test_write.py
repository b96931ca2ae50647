"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lrpet.compact.write import written, written_folder


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
