"""A run of several processes is a run of one: its batches, its files, and how it goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import loops
from lrpet.train.data.batches import batches
from lrpet.train.data.options import BatchOptions
from lrpet.train.data.sets import load
from lrpet.train.folder import RunFolder
from lrpet.train.processes import Processes
from lrpet.train.task import Task
from processes import results
from runs import lines, quick, run, weights

CPU = torch.device("cpu")


@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("kind", ["memory", "files"])
def test_the_batches_of_all_are_those_of_one(tmp_path: Path, kind: str, train: bool, processes: int) -> None:
    if kind == "files":
        for part in ("train", "val"):
            for i in range(26):
                path = tmp_path / part / f"class{i % 2}" / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (20, 20), (9 * i, 0, 0)).save(path)
    dataset = load(
        "digits" if kind == "memory" else f"folder:{tmp_path}", None, image_size=None if kind == "memory" else 16
    )

    def made(rank: int, processes: int) -> Any:
        options = BatchOptions(12, seed=1, rank=rank, processes=processes)
        of = batches(dataset.train, dataset, options, device=CPU, train=train)
        of.set_epoch(2)
        return of

    alone, shared = made(0, 1), [made(rank, processes) for rank in range(processes)]
    assert all(len(each) == len(alone) for each in shared)
    seen = 0
    for (images, labels), *parts in zip(alone, *shared, strict=False):
        assert sorted(torch.cat([part[1] for part in parts]).tolist()) == sorted(labels.tolist())
        if train:
            assert torch.equal(torch.cat([part[0] for part in parts]), images)
            assert len({len(part[1]) for part in parts}) == 1
        else:
            assert all(torch.equal(part[0], images[rank::processes]) for rank, part in enumerate(parts))
        seen += len(labels)
    assert seen >= len(alone) * 12 - 12


@pytest.mark.parametrize(("device", "on_cpu"), [("auto", False), ("cuda", False), ("cpu", True)])
def test_a_process_alone_takes_the_device_that_is_asked_for(tmp_path: Path, device: str, on_cpu: bool) -> None:
    config = quick(tmp_path / "run", device=device)
    assert RunFolder(config, Task.of(config).plan).processes == Processes.joined(device)
    assert Processes.joined(device).on_cpu == on_cpu


def test_batches_that_cannot_be_divided_are_refused() -> None:
    with pytest.raises(
        ValueError, match="batch_size=10 is the images of one step in all processes, and cannot be divided"
    ):
        BatchOptions(10, processes=4)


def test_a_run_is_stopped_and_goes_on_with_any_number_of_processes(tmp_path: Path) -> None:
    whole = quick(tmp_path / "whole", epochs=3, every=3, start=0)
    first, second = results(
        2, loops.trained, tmp_path / "a", json.dumps(whole.model_dump(mode="json")), 0, joined=False
    )
    assert first == second == json.loads((whole.folder / "summary.json").read_text())
    assert first["test_accuracy"] > 0.5
    assert len(lines(whole.folder)) == len({(line["kind"], line["step"]) for line in lines(whole.folder)})
    assert {path.name for path in (whole.folder / "checkpoints").iterdir()} == {"epoch-00002", "epoch-00003"}

    for processes in (2, 1, 4):
        cut = quick(tmp_path / f"cut-{processes}", epochs=3, every=3, start=0)
        options = json.dumps(cut.model_dump(mode="json"))
        results(2, loops.trained, tmp_path / f"killed-{processes}", options, 15, joined=False)
        assert not (cut.folder / "summary.json").exists()
        if processes == 1:
            summary = run(cut, resume=True)
        else:
            summary, *others = results(processes, loops.trained, tmp_path / f"b{processes}", options, 0, joined=False)
            assert all(other == summary for other in others)
        assert [(line["kind"], line["step"]) for line in lines(cut.folder)] == [
            (line["kind"], line["step"]) for line in lines(whole.folder)
        ]
        if processes == 2:
            mine, other = weights(cut.folder), weights(whole.folder)
            assert all(torch.equal(mine[name], other[name]) for name in other)
        assert summary["test_accuracy"] == pytest.approx(first["test_accuracy"], abs=0.1)
