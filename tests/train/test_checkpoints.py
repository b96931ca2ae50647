"""Checkpoints: what is in them, the one before the latest, and damage."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from lrpet.train import checkpoints, tree
from lrpet.train.folder import RunFolder
from lrpet.train.task import Task
from runs import killed_at, lines, quick, run, weights

SHORT: dict[str, Any] = {"model": "resnet8", "epochs": 3, "every": 4}


def truncated(checkpoint: Path) -> None:
    path = checkpoint / "state.safetensors"
    path.write_bytes(path.read_bytes()[:100])


def flipped(checkpoint: Path) -> None:
    path = checkpoint / "process-0.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def emptied(checkpoint: Path) -> None:
    (checkpoint / "run.json").write_bytes(b"")


def without_sums(checkpoint: Path) -> None:
    (checkpoint / "SHA256SUMS").unlink()


def sums_of_nothing(checkpoint: Path) -> None:
    (checkpoint / "SHA256SUMS").write_bytes(b"")


DAMAGES = [truncated, flipped, emptied, without_sums, sums_of_nothing]


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A whole run, and a run of two checkpoints that was killed in its last epoch."""
    folder = tmp_path_factory.mktemp("runs")
    run(quick(folder / "whole", **SHORT))
    per_epoch = lines(folder / "whole")[-1]["step"] // 3
    with killed_at(2 * per_epoch + 2):
        run(quick(folder / "cut", **SHORT))
    return folder / "whole", folder / "cut"


def test_a_checkpoint_holds_no_pickle_and_two_are_kept(cut: tuple[Path, Path]) -> None:
    latest = cut[1] / "checkpoints" / "epoch-00002"
    assert {path.name for path in latest.iterdir()} == {
        "state.safetensors", "process-0.safetensors", "run.json", "SHA256SUMS",
    }  # fmt: skip
    assert {path.name for path in latest.parent.iterdir()} == {"epoch-00001", "epoch-00002"}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_said_and_the_one_before_it_taken(
    cut: tuple[Path, Path], tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    whole, killed = cut
    shutil.copytree(killed, tmp_path / "run")
    damage(tmp_path / "run" / "checkpoints" / "epoch-00002")
    with pytest.warns(UserWarning, match=r"epoch-00002 is damaged: .*Going on from .*epoch-00001"):
        run(quick(tmp_path / "run", **SHORT), resume=True)
    expected, resumed = weights(whole), weights(tmp_path / "run")
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)
    assert [line["step"] for line in lines(tmp_path / "run")] == [line["step"] for line in lines(whole)]


def test_nothing_whole_left_is_refused_and_changes_nothing(cut: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.copytree(cut[1], tmp_path / "run")
    for checkpoint in (tmp_path / "run" / "checkpoints").iterdir():
        truncated(checkpoint)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"epoch-00002 is damaged.*epoch-00001 is damaged.*No other checkpoint"):
        run(quick(tmp_path / "run", **SHORT), resume=True)
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}


def test_a_torn_line_of_metrics_is_left_out_and_a_damaged_one_said(cut: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.copytree(cut[1], tmp_path / "run")
    metrics = tmp_path / "run" / "metrics.jsonl"
    first, *rest = metrics.read_text(encoding="utf-8").splitlines()
    damaged = [
        "{damaged",
        '{"step": 1}',
        '{"kind": "corrupt", "step": 1}',
        '{"kind": "epoch", "step": 1e999}',
        "[" * 10**5,
    ]
    metrics.write_text("\n".join([first, *damaged, *rest, '{"kind": "epo']), encoding="utf-8")
    with pytest.warns(UserWarning, match=r"metrics\.jsonl, line 2 is damaged"):
        run(quick(tmp_path / "run", **SHORT), resume=True)
    assert [line["step"] for line in lines(tmp_path / "run")] == [line["step"] for line in lines(cut[0])]


def test_a_run_under_way_keeps_others_out_of_its_folder(tmp_path: Path) -> None:
    config = quick(tmp_path / "run", **SHORT)
    task = Task.of(config)
    with RunFolder.opened(config, task.plan) as folder:
        folder.begin(0, track=lambda values, *, step: None)
        with pytest.raises(FileExistsError, match="under way"):
            run(config, resume=True)
    assert run(config, resume=True)["epochs"] == 3


@pytest.mark.parametrize(
    "said",
    [
        'IoError(Os { code: 28, kind: StorageFull, message: "No space left on device" })',
        "Error while serializing: I/O error: No space left on device (os error 28)",
    ],
)
def test_a_full_disk_is_an_error_of_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    """As older and newer releases of safetensors word it; the checkpoint of before stays, and no part of the new one."""

    def full(*_: Any) -> None:
        raise SafetensorError(said)

    saved = tree.save_tree
    calls = []

    def second_time(value: Any, path: Path) -> None:
        calls.append(path)
        (saved if len(calls) <= 2 else full)(value, path)

    monkeypatch.setattr(checkpoints, "save_tree", second_time)
    with pytest.raises(OSError, match="No space left on device") as raised:
        run(quick(tmp_path / "run", **SHORT))
    monkeypatch.undo()
    assert raised.value.errno == errno.ENOSPC
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["epoch-00001"]
    assert run(quick(tmp_path / "run", **SHORT), resume=True)["epochs"] == 3
