"""`lrpet export`: from a run folder to checked files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lrpet.cli import main
from lrpet.exporting import verify
from old_torch import exporting


@exporting
def test_a_run_is_checked_on_the_images_it_held_out(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "compact.pt2"
    line = ["export", str(finished), str(path), "--part", "validation", "--images", "60"]
    assert main(line) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"{path}: ")
    assert "on 60 images; 100.00% of the predictions agree" in text
    manifest = verify(path).manifest
    assert manifest["inputs"][0]["shape"] == ["batch", 1, 8, 8]
    assert [check["rows"] for check in manifest["checks"]] == [5, 60]
    assert main(line) == 2
    assert f"{path} exists" in capsys.readouterr().err


@exporting
def test_a_compact_folder_without_its_data(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "compact.pt2"
    assert main(["export", str(finished / "compact"), str(path), "--random-only", "--batch-size", "3"]) == 0
    assert "3 random inputs" in capsys.readouterr().out
    assert verify(path).manifest["inputs"][0]["shape"] == [3, 1, 8, 8]


def test_bad_input(finished: Path, refused: Callable[[list[str], str], None]) -> None:
    refused(["export", str(finished), "compact.tflite"], "'compact.tflite' does not say the format")
    refused(["export", "nowhere", "compact.pt2"], "nowhere")
