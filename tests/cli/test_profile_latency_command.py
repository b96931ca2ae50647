"""`lrpet profile-latency`: the table it leaves, also when interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import lrpet
from lrpet.cli import main
from lrpet.latency import profile as module

QUICK = ["profile-latency", "resnet8", "TABLE", "--seconds", "0.001", "--image-size", "8"]


def line(table: Path, *more: str) -> list[str]:
    return [str(table) if word == "TABLE" else word for word in QUICK] + list(more)


def test_a_table_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line(tmp_path / "table.json", "--batch-size", "2", "--multiple-of", "4")) == 0
    out = capsys.readouterr().out
    table = lrpet.LatencyTable.load(tmp_path / "table.json")
    assert f"{len(table.dense)} layers" in out
    assert table.source["input"] == [2, 3, 8, 8]
    assert {"runtime", "command", "hardware", "versions"} <= table.source.keys()
    assert all(rank % 4 == 0 for ranks in table.factorised.values() for rank in ranks)


@pytest.mark.parametrize(("measured", "kept"), [(3, True), (0, False)])
def test_an_interruption_keeps_what_was_measured(
    measured: int, kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ready, calls = vars(module)["ready_together"], 0

    def interrupted(contenders: Any, *rest: Any, **options: Any) -> Any:
        nonlocal calls
        if "dense" in contenders:
            calls += 1
            if calls > measured:
                raise KeyboardInterrupt
        return ready(contenders, *rest, **options)

    monkeypatch.setattr(module, "ready_together", interrupted)
    assert main(line(tmp_path / "table.json")) == 130
    text = capsys.readouterr().err
    assert "interrupted" in text
    if kept:
        table = lrpet.LatencyTable.load(tmp_path / "table.json")
        assert f"{tmp_path / 'table.json'} keeps the times of the {len(table.dense)} layers" in text
        assert len(table.dense) >= measured
        assert table.source["interrupted"] is True
    else:
        assert "nothing was written" in text
        assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_said_before_measuring(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line(tmp_path / "nowhere" / "table.json")) == 2
    captured = capsys.readouterr()
    assert "there is no folder" in captured.err
    assert "measuring" not in captured.out


def test_a_wrong_size_names_the_shape(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["profile-latency", "vgg16_bn", str(tmp_path / "t.json"), "--image-size", "7", "--batch-size", "2"]
    assert main(arguments) == 2
    assert "vgg16_bn does not run on images of shape 2×3×7×7" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*arguments, "--seconds", "0"])
    assert "argument --seconds: 0 must be above 0" in capsys.readouterr().err
