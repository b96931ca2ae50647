"""Options of a run: optimizers, precision, data and augmentation, networks of libraries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import lrpet
from helpers import write_folder
from lrpet.train.run import evaluate
from runs import lines, quick, run

pytestmark = pytest.mark.usefixtures("untimed")


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "bf16", "channels_last": True, "optimizer": "adamw", "lr": 1e-2},
        {"method": "dense", "macs": None, "schedule": "step", "milestones": (1,)},
        {"schedule": "cosine", "warmup_epochs": 1, "holdout": 0.0},
        {"model": "torchvision:resnet18", "data": "digits", "in_channels": 3},
    ],
    ids=["bf16-adamw", "dense-step", "cosine-warmup-no-validation", "torchvision"],
)
def test_options_train(tmp_path: Path, changes: dict[str, Any]) -> None:
    if changes.pop("in_channels", None):
        with pytest.raises(ValueError, match="in_channels"):
            run(quick(tmp_path / "run", **changes))
        return
    summary = run(quick(tmp_path / "run", **changes))
    assert summary["test_accuracy"] > 0.15
    assert (summary["val_accuracy"] is None) == (changes.get("holdout") == 0.0)


def test_a_vision_transformer_with_all_augmentation(tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "model": "timm:vit_tiny_patch16_224",
        "model_args": {"img_size": 8, "patch_size": 2, "embed_dim": 48, "depth": 2, "drop_path_rate": 0.1},
        "include": ("*.mlp.*",),
        "optimizer": "adamw",
        "lr": 1e-3,
        "weight_decay": 0.05,
        "mixup": 0.2,
        "cutmix": 0.2,
        "random_erasing": 0.1,
        "repeats": 2,
        "label_smoothing": 0.1,
        "epochs": 4,
        "batch_size": 32,
    }
    summary = run(quick(tmp_path / "run", **changes))
    epochs = [line for line in lines(tmp_path / "run") if line["kind"] == "epoch"]
    assert epochs[-1]["train_loss"] < epochs[0]["train_loss"]
    ranks = lrpet.Plan.from_json((tmp_path / "run" / "plan.json").read_text()).ranks
    assert set(ranks) == {f"blocks.{block}.mlp.fc{layer}" for block in (0, 1) for layer in (1, 2)}
    assert summary["macs"] <= 0.5 * summary["macs_dense"]
    repeated = run(quick(tmp_path / "again", **changes))
    assert repeated["test_accuracy"] == summary["test_accuracy"]
    with pytest.raises(ValueError, match="batch_size=31 comes to 31 at a time, which is odd"):
        run(quick(tmp_path / "odd", **{**changes, "batch_size": 31}))


def test_folder_of_images(tmp_path: Path) -> None:
    write_folder(tmp_path / "images")
    config = {"data": f"folder:{tmp_path / 'images'}", "image_size": 32, "batch_size": 4, "num_workers": 0, "epochs": 1}
    summary = run(quick(tmp_path / "run", **config))
    assert summary["data"] == config["data"]
    assert lrpet.read_metadata(tmp_path / "run" / "compact")["classes"] == ["cat", "dog"]
    assert evaluate(tmp_path / "run").accuracy == pytest.approx(summary["test_accuracy"], abs=1e-9)
