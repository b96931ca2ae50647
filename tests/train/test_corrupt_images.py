"""Runs whose data has corrupt images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import loops
from helpers import write_folder
from lrpet.train.config import make_config
from lrpet.train.console import Console
from lrpet.train.run import evaluate, train
from processes import results
from runs import killed_at, lines, quick, run

pytestmark = pytest.mark.usefixtures("untimed")


def damage(path: Path) -> dict[str, Any]:
    """Damage an image of each part of a new folder, and return options to train on it."""
    write_folder(path)
    for part in ("train", "val"):
        (path / part / "dog" / "1.png").write_bytes(b"this is no image")
    options = {"data": f"folder:{path}", "image_size": 16, "batch_size": 4, "model": "resnet8", "num_workers": 0}
    return {**options, "holdout": 0.0, "epochs": 3}


def test_they_are_left_out_named_once_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = quick(tmp_path / "run", **damage(tmp_path / "images"), on_corrupt="skip")
    with killed_at(8):  # in the third epoch
        run(config)
    summary = train(config, resume=True, console=Console())
    assert summary["corrupt_images"] == 2
    told = [line for line in lines(config.folder) if line["kind"] == "corrupt"]
    assert [Path(line["image"]).parts[-3:] for line in told] == [("train", "dog", "1.png"), ("val", "dog", "1.png")]
    assert "cannot identify image" in told[0]["said"]
    assert evaluate(config.folder).accuracy == pytest.approx(summary["test_accuracy"])
    assert "left out" not in capsys.readouterr().out  # what the run said before it was killed


def test_those_of_all_processes_are_named(tmp_path: Path) -> None:
    """Process 0 names what the other one read. It reads no image itself that it did not train on."""
    options = {**damage(tmp_path / "images"), "epochs": 1, "reestimate_bn": False}
    for name in ("0", "2", "4"):
        (tmp_path / "images" / "train" / "cat" / f"{name}.png").write_bytes(b"")
    config = quick(tmp_path / "run", **options, on_corrupt="skip")
    summaries = results(2, loops.trained, tmp_path / "2", json.dumps(config.model_dump(mode="json")), 0, joined=False)
    assert [summary["corrupt_images"] for summary in summaries] == [5, 5]


def test_they_stop_the_run_unless_they_are_to_be_left_out(tmp_path: Path) -> None:
    config = quick(tmp_path / "run", **damage(tmp_path / "images"))
    with pytest.raises(ValueError, match=r"train/dog/1\.png is no readable image"):
        run(config)
    assert run(config.model_copy(update={"on_corrupt": "skip"}), resume=True)["corrupt_images"] == 2


def test_they_are_a_matter_of_image_files() -> None:
    with pytest.raises(ValueError, match="digits lies in memory: leave out on_corrupt"):
        make_config({"data": "digits", "keep": 0.5, "on_corrupt": "skip"})
