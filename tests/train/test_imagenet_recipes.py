"""Every ImageNet recipe trains on a small folder in ImageNet's format, and one on its WebDataset shards, to the same bits."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import lrpet
from helpers import write_folder, write_shards
from lrpet import models
from lrpet.train.config import Config, read_config
from lrpet.train.run import evaluate
from runs import killed_at, lines, run, weights

pytestmark = pytest.mark.usefixtures("untimed")

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("imagenet-*.yaml"))
#: What makes a recipe small: images, their number, and the length of the training.
SMALL: dict[str, Any] = {
    "batch_size": 8,
    "epochs": 2,
    "image_size": 32,
    "num_workers": 0,
    "compile": False,
    "precision": "no",
    "device": "cpu",
    "log_with": [],
}


def small(path: Path, output: Path, **changes: Any) -> Config:
    asked = read_config(path)
    options: dict[str, Any] = {**SMALL, "output": output}
    if asked.warmup_epochs:
        options["warmup_epochs"] = 1
    if asked.milestones:
        options["milestones"] = [1]
    if asked.train_size is not None:
        options["train_size"] = 24
    if asked.model.startswith("timm:vit"):
        options["model_args"] = {**asked.model_args, "img_size": 32, "depth": 2}
    return read_config(path, {**options, **changes})


def corrupted(path: Path) -> Path:
    """Write a folder in ImageNet's format with a corrupt image in each part."""
    write_folder(path)
    for part in ("train", "val"):
        file = path / part / "cat" / "2.png"
        file.write_bytes(file.read_bytes()[:200])
    return path


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_stated_cost_is_that_of_the_recipe(path: Path) -> None:
    """Multiply-adds forward, and twice as many backward, for every image of every epoch."""
    config = read_config(path)
    stated = re.search(
        r"^# Expected cost: 3 × ([\d.]+) G multiply-adds × 1,281,167 images × (\d+) epochs = ([\de.]+), ([\de.]+) on each of 8",
        path.read_text(encoding="utf-8"),
        flags=re.MULTILINE,
    )
    assert stated is not None
    network = models.create(config.model, num_classes=1000, arguments=config.model_args)
    side = config.train_size or config.image_size
    assert side is not None
    plan = lrpet.plan(network, torch.zeros(1, 3, side, side), ranks={})
    assert float(stated[1]) == pytest.approx(plan.macs_dense / 1e9, rel=0.003)
    assert int(stated[2]) == config.epochs
    total = 3 * plan.macs_dense * 1_281_167 * config.epochs
    assert float(stated[3]) == pytest.approx(total, rel=0.005)
    assert float(stated[4]) == pytest.approx(total / 8, rel=0.005)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_trains_and_leaves_corrupt_images_out(path: Path, tmp_path: Path) -> None:
    images = corrupted(tmp_path / "images")
    summary = run(small(path, tmp_path / "run", data=f"folder:{images}", on_corrupt="skip"))
    assert summary["corrupt_images"] == 2
    scored = evaluate(tmp_path / "run")
    assert scored.accuracy == pytest.approx(summary["test_accuracy"])
    assert summary["macs"] < summary["macs_dense"]


def test_shards_train_as_their_folder_does_and_go_on_in_the_middle_of_it(tmp_path: Path) -> None:
    images = corrupted(tmp_path / "images")
    write_shards(images, tmp_path / "shards")
    (recipe,) = (path for path in RECIPES if path.stem == "imagenet-resnet18-a3")
    options: dict[str, Any] = {"on_corrupt": "skip", "batch_size": 4, "accumulate": 2, "ema": 0.5, "epochs": 3}
    whole, cut = (
        small(recipe, tmp_path / name, data=f"webdataset:{tmp_path / 'shards'}", **options) for name in ("whole", "cut")
    )
    run(whole)
    with killed_at(5):
        run(cut)
    assert run(cut, resume=True)["corrupt_images"] == 2
    named = [line["image"] for line in lines(cut.folder) if line["kind"] == "corrupt"]
    assert [Path(name).parts[-2:] for name in named] == [
        ("train-000000.tar", "cat-2.png"),
        ("val-000000.tar", "cat-2.png"),
    ]
    mine, expected = weights(cut.folder), weights(whole.folder)
    assert all(torch.equal(mine[name], expected[name]) for name in expected)
