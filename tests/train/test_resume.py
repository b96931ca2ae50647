"""Resuming: to the same bits, with more epochs, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import lrpet
from lrpet.train.config import make_config
from lrpet.train.task import Task
from runs import killed_at, lines, quick, run, weights

pytestmark = pytest.mark.usefixtures("untimed")


@pytest.mark.parametrize(
    "projecting",
    [
        {"every": "epoch"},
        {"every": 7, "start": 0},
        {"every": 3, "start": 0, "descent": 0.8, "allocate": "energy"},
        {"every": 4, "allocate": "energy", "calibration": 100},
        {"every": 5, "optimizer": "adamw", "lr": 1e-3, "mixup": 0.2, "random_erasing": 0.3, "channels_last": True},
    ],
)
def test_killed_run_resumes_to_the_same_bits(tmp_path: Path, projecting: dict[str, Any]) -> None:
    """Killed in the middle of an epoch, after steps that the checkpoint does not hold."""
    changes: dict[str, Any] = {"epochs": 3, "schedule": "cosine", "crop_padding": 1, **projecting}
    run(quick(tmp_path / "whole", **changes))

    with killed_at(15):
        run(quick(tmp_path / "cut", **changes))
    assert not (tmp_path / "cut" / "summary.json").exists()
    run(quick(tmp_path / "cut", **changes), resume=True)

    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    steps = [
        [(line["kind"], line["step"], line.get("ranks")) for line in lines(tmp_path / name)]
        for name in ("whole", "cut")
    ]
    assert steps[0] == steps[1]


def test_resume_without_a_checkpoint_starts_afresh(tmp_path: Path) -> None:
    with killed_at(1):
        run(quick(tmp_path / "run", epochs=1))
    assert run(quick(tmp_path / "run", epochs=1), resume=True)["epochs"] == 1


def test_a_resumed_run_keeps_the_plan_it_began_with(tmp_path: Path) -> None:
    with killed_at(1):
        run(quick(tmp_path / "run", epochs=1))
    saved = tmp_path / "run" / "plan.json"  # as if another version had planned
    task = Task.of(quick(tmp_path / "run", epochs=1))
    other = lrpet.plan(task.network, task.example, ranks={**task.plan.ranks, "layer3.0.conv2": 2})
    assert other.ranks != task.plan.ranks
    saved.write_text(other.to_json(), encoding="utf-8")
    assert run(quick(tmp_path / "run", epochs=1), resume=True)["macs"] == other.macs
    assert lrpet.Plan.from_json(saved.read_text(encoding="utf-8")) == other


def test_existing_run_folder_is_refused_and_kept(finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    with pytest.raises(FileExistsError, match="--resume"):
        run(quick(finished))
    assert before == {path: path.stat().st_mtime_ns for path in finished.rglob("*")}


def test_resuming_another_run_is_refused(finished: Path) -> None:
    with pytest.raises(ValueError, match=r"lr was 0\.1 and is 0\.05"):
        run(quick(finished, lr=0.05), resume=True)


def test_resuming_no_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    with pytest.raises(ValueError, match="no run folder"):
        run(quick(tmp_path / "notes"), resume=True)


def test_checkpoint_of_another_model_is_refused(finished: Path, tmp_path: Path) -> None:
    run(quick(tmp_path / "dense", method="dense", macs=None, model="resnet32", epochs=1))
    shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    shutil.copytree(tmp_path / "dense" / "checkpoints", tmp_path / "run" / "checkpoints")
    with pytest.raises(ValueError, match="another network"):
        run(quick(tmp_path / "run"), resume=True)


LONGER: dict[str, Any] = {"model": "resnet8", "schedule": "constant", "every": 4, "start": 0.0}


def rates(folder: Path) -> list[float]:
    return [line["lr"] for line in lines(folder) if line["kind"] == "epoch"]


@pytest.mark.parametrize("killed", [False, True], ids=["finished", "killed"])
def test_a_run_resumed_with_more_epochs_is_the_longer_run(tmp_path: Path, killed: bool) -> None:
    """With nothing that depends on the length, to the bits of a run that was that long from the beginning."""
    run(quick(tmp_path / "long", epochs=3, **LONGER))
    if killed:
        with killed_at(14):
            run(quick(tmp_path / "run", epochs=2, **LONGER))
    else:
        run(quick(tmp_path / "run", epochs=1, **LONGER))
    assert run(quick(tmp_path / "run", epochs=3, **LONGER), resume=True)["epochs"] == 3
    whole, resumed = weights(tmp_path / "long"), weights(tmp_path / "run")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert [line["step"] for line in lines(tmp_path / "run")] == [line["step"] for line in lines(tmp_path / "long")]
    with pytest.raises(ValueError, match=r"epochs=3, and epochs=2 is fewer"):
        run(quick(tmp_path / "run", epochs=2, **LONGER), resume=True)


@pytest.mark.parametrize(
    "schedule",
    [{"schedule": "one-cycle"}, {"schedule": "cosine", "warmup_epochs": 1}, {"schedule": "step", "milestones": (2,)}],
    ids=["one-cycle", "cosine", "step"],
)
def test_more_epochs_have_their_own_learning_rates(tmp_path: Path, schedule: dict[str, Any]) -> None:
    """Those of a run of that length: of the epochs to come, since the first ones are over."""
    options = {"model": "resnet8", "method": "dense", "macs": None, **schedule}
    run(quick(tmp_path / "long", epochs=4, **options))
    run(quick(tmp_path / "run", epochs=2, **options))
    before = rates(tmp_path / "run")
    run(quick(tmp_path / "run", epochs=4, **options), resume=True)
    assert rates(tmp_path / "run") == [*before, *rates(tmp_path / "long")[2:]]
    assert make_config(yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())).epochs == 4


def test_fractions_are_those_of_more_epochs(tmp_path: Path) -> None:
    options = {**LONGER, "every": 2, "start": 0.5}
    run(quick(tmp_path / "run", epochs=1, **options))
    per_epoch = lines(tmp_path / "run")[-1]["step"]
    run(quick(tmp_path / "run", epochs=4, **options), resume=True)
    projections = [line["step"] for line in lines(tmp_path / "run") if line["kind"] == "projection"]
    assert not [step for step in projections if per_epoch < step < 2 * per_epoch]
    assert [step for step in projections if step > per_epoch] == list(range(2 * per_epoch, 4 * per_epoch + 1, 2))


def test_a_run_whose_ranks_fall_takes_no_more_epochs(tmp_path: Path) -> None:
    options = {"model": "resnet8", "descent": 0.5}
    with killed_at(1):
        run(quick(tmp_path / "run", **options))
    with pytest.raises(ValueError, match="whose ranks fall"):
        run(quick(tmp_path / "run", epochs=3, **options), resume=True)


def test_a_resume_that_cannot_begin_changes_nothing(tmp_path: Path) -> None:
    with killed_at(1):
        run(quick(tmp_path / "run", **LONGER))
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="log_with names 'nothing'"):
        run(quick(tmp_path / "run", epochs=3, log_with=("nothing",), **LONGER), resume=True)
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
