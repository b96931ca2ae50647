"""What a run refuses, in one clear message; before training begins, no folder is left."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import tracking

import lrpet
from helpers import write_folder
from lrpet import models
from runs import killed_at, quick, run


def test_divergence_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="diverged"):
        run(quick(tmp_path / "run", lr=1e20, schedule="constant", epochs=1, every=3))


def test_batch_larger_than_the_data(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="batch_size=100000"):
        run(quick(tmp_path / "run", batch_size=100000))
    assert not (tmp_path / "run").exists()


def test_impossible_budget_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be met"):
        run(quick(tmp_path / "run", macs=0.001))
    assert not (tmp_path / "run").exists()


def test_missing_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="no CUDA device"):
        run(quick(tmp_path / "run", device="cuda"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "resnet21"}, "there is no model 'resnet21'"),
        ({"data": "mnist"}, "there is no data set 'mnist'"),
        ({"macs": None, "plan": Path("nowhere.json")}, "there is no plan"),
        ({"macs": None, "plan": Path(sys.executable)}, f"{Path(sys.executable).name} is damaged: "),
        ({"mixup": 0.2, "batch_size": 127}, "batch_size=127 comes to 127 at a time, which is odd"),
        (
            {"cuda_graphs": True},
            "cuda_graphs is for one process and a CUDA device, and the device is cpu: leave it out",
        ),
        (
            {"cuda_graphs": True, "accumulate": 2},
            "cuda_graphs overwrites the gradients .* leave accumulate, now 2, at 1",
        ),
        ({"log_with": ("paper",)}, "log_with names 'paper': there are .*tensorboard, "),
        ({"model": "vgg16_bn"}, r"vgg16_bn cannot take the images of digits, 1 channel of 8×8: choose another model\."),
        (
            {"model": "timm:vit_tiny_patch16_224", "method": "dense", "macs": None},
            r"cannot take .* 8×8: .* by model_args, such as '\{img_size: 32\}'\. The network says: .*8.*224",
        ),
        (
            {"model": "timm:resnet10t", "model_args": {"features_only": True}, "method": "dense", "macs": None},
            "gives a list for an image of digits, not \\(1, 10\\)",
        ),
    ],
)
def test_a_failed_start_leaves_nothing(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    folder = tmp_path / "runs" / "run"
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run(quick(folder, **changes))
    assert not folder.exists()


def test_a_tracker_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "_available_trackers", [])
    with pytest.raises(ValueError, match="log_with names clearml, which is not installed: pip install clearml"):
        run(quick(tmp_path / "run", log_with=("clearml",)))
    assert not (tmp_path / "run").exists()


def test_a_plan_does_not_hide_images_that_the_network_cannot_take(tmp_path: Path) -> None:
    network = models.create("vgg16_bn")
    plan = lrpet.plan(network, torch.zeros(1, 3, 32, 32), keep=0.5)
    (tmp_path / "plan.json").write_text(plan.to_json())
    with pytest.raises(ValueError, match="vgg16_bn cannot take the images of digits"):
        run(quick(tmp_path / "run", model="vgg16_bn", macs=None, plan=tmp_path / "plan.json"))
    assert not (tmp_path / "run").exists()


def test_image_files_of_a_size_that_the_network_cannot_take(tmp_path: Path) -> None:
    write_folder(tmp_path / "images")
    config = {"data": f"folder:{tmp_path / 'images'}", "image_size": 8, "batch_size": 4, "model": "vgg16_bn"}
    with pytest.raises(ValueError, match=r"3 channels of 8×8: give another image_size\."):
        run(quick(tmp_path / "run", **config))


def test_a_run_that_has_begun_keeps_its_folder(tmp_path: Path) -> None:
    with killed_at(1):
        run(quick(tmp_path / "run", model="resnet8"))
    assert (tmp_path / "run" / "config.yaml").is_file()
