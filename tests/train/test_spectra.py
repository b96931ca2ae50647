"""Singular values recorded in training: when, what, and that recording changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import lrpet
from helpers import Small
from lrpet.report.spectra import Spectra as Read
from lrpet.train import spectra
from lrpet.train.spectra import AFTER, BEFORE, SKIPPED, Spectra, moments
from runs import killed_at, lines, quick, run, weights

pytestmark = pytest.mark.usefixtures("untimed")
OPTIONS: dict[str, Any] = {"model": "resnet8", "epochs": 3, "start": 0.5, "every": 2, "schedule": "cosine"}


def recorded(folder: Path) -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in sorted((folder / "spectra").iterdir())}


def test_moments_are_few_and_stand_around_the_first_projection() -> None:
    projections = list(range(40_000, 80_001, 5))
    found = moments(80_000, projections)
    assert {(0, "free"), (40_000, "free"), (40_000, "projected"), (40_005, "free"), (80_000, "end")} <= found
    assert len(found) == BEFORE + AFTER + 4
    assert {step for step, when in found if when == "free" and step > 40_000} <= set(projections)
    assert moments(100, []) == {(0, "free"), (25, "free"), (50, "free"), (75, "free"), (100, "free"), (100, "end")}
    assert moments(2, [1, 2]) == {(0, "free"), (1, "free"), (1, "projected"), (2, "free"), (2, "end")}


def test_spectra_fold_to_a_cliff_at_the_rank_and_recording_changes_nothing(tmp_path: Path) -> None:
    """A run that records comes to the bits of one that does not, and a killed one to the files of a whole one."""
    run(quick(tmp_path / "whole", **OPTIONS))
    with killed_at(25):  # in the third epoch, after the first projections
        run(quick(tmp_path / "cut", **OPTIONS))
    run(quick(tmp_path / "cut", **OPTIONS), resume=True)
    assert recorded(tmp_path / "cut") == recorded(tmp_path / "whole")

    run(quick(tmp_path / "without", spectra=False, **OPTIONS))
    assert not (tmp_path / "without" / "spectra").exists()
    bits, others = weights(tmp_path / "whole"), weights(tmp_path / "without")
    assert all(torch.equal(bits[name], others[name]) for name in bits)

    (first,) = {line["step"] for line in lines(tmp_path / "whole") if line.get("ranks")}
    plan = lrpet.Plan.from_json((tmp_path / "whole" / "plan.json").read_text())
    free, projected, end = (
        load_file(tmp_path / "whole" / "spectra" / f"{step:09d}-{when}.safetensors")
        for step, when in ((first, "free"), (first, "projected"), (lines(tmp_path / "whole")[-1]["step"], "end"))
    )
    for name, rank in plan.ranks.items():
        for values in (projected, end):
            assert (values[name][rank:] < 1e-5 * values[name][0]).all()
            assert values[name][rank - 1] > 1e-3 * values[name][0]
        assert free[name][rank] > 1e-3 * free[name][0]
    assert "fc" in free  # layers that stay dense are there too


def test_sharded_weights_are_left_out_for_a_reason(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = lrpet.plan(small, torch.zeros(1, 3, 8, 8), keep=0.5)
    recorder = Spectra(lrpet.Projector(small, plan, total_steps=4), tmp_path, wanted=True)
    monkeypatch.setattr(spectra, "is_dtensor", lambda weight: True)
    recorder.begin(0)
    assert [path.name for path in (tmp_path / "spectra").iterdir()] == [SKIPPED]
    assert "sharded among processes" in Read.read(tmp_path / "spectra").why_none
    monkeypatch.undo()
    recorder.begin(0)
    (moment,) = Read.read(tmp_path / "spectra").moments
    assert (moment.step, moment.when) == (0, "free")


def test_more_epochs_go_on_without_the_projection_that_ended_the_run(tmp_path: Path) -> None:
    options = {**OPTIONS, "schedule": "constant", "start": 4, "every": 4}
    run(quick(tmp_path / "run", **{**options, "epochs": 1}))
    last = lines(tmp_path / "run")[-1]["step"]
    assert f"{last:09d}-end" in recorded(tmp_path / "run")
    run(quick(tmp_path / "run", **{**options, "epochs": 2}), resume=True)
    ends = [name for name in recorded(tmp_path / "run") if name.endswith("-end")]
    assert ends == [f"{2 * last:09d}-end"]
    run(quick(tmp_path / "long", **{**options, "epochs": 2}))
    shared = recorded(tmp_path / "run").items() & recorded(tmp_path / "long").items()
    assert dict(shared).keys() >= {"000000000-free", "000000004-free", "000000004-projected", ends[0]}
