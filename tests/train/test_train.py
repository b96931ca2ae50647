"""Whole training runs on the digits that come with scikit-learn: what they leave, resuming, and refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import write_folder
from safetensors.torch import load_file

import lrpet
from lrpet.train.config import Config, make_config
from lrpet.train.console import Console
from lrpet.train.run import evaluate, train
from lrpet.train.task import Task

QUICK: dict[str, Any] = {
    "model": "resnet20",
    "data": "digits",
    "macs": 0.5,
    "every": "epoch",
    "epochs": 2,
    "batch_size": 128,
    "device": "cpu",
    "seed": 3,
}


def quick(folder: Path, **changes: Any) -> Config:
    return make_config({**QUICK, "output": folder, **changes})


def run(config: Config, *, resume: bool = False) -> dict[str, Any]:
    return train(config, resume=resume, console=Console(quiet=True))


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "compact" / "model.safetensors")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "finished"
    run(quick(folder))
    return folder


def test_run_folder_is_complete(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    plan = lrpet.Plan.from_json((finished / "plan.json").read_text())
    assert summary["macs"] == plan.macs <= 0.5 * plan.macs_dense
    assert summary["bytes"] < summary["bytes_dense"]
    assert summary["cpu_milliseconds"] > 0
    assert {"command", "commit", "hardware", "versions", "test_accuracy", "val_accuracy"} <= summary.keys()
    kinds = [line["kind"] for line in lines(finished)]
    assert kinds.count("epoch") == 2
    assert kinds.count("projection") == 2
    assert any((finished / "tensorboard").iterdir())
    assert f"{summary['test_accuracy']:.2%}" in (finished / "summary.txt").read_text()
    assert make_config(json.loads(json.dumps(summary["config"]))) == quick(finished)


def test_summary_is_of_the_network_on_disk(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    assert evaluate(finished, part="test").accuracy == pytest.approx(summary["test_accuracy"], abs=1e-9)
    assert evaluate(finished, part="validation").accuracy == pytest.approx(summary["val_accuracy"], abs=1e-9)
    stored = sum(tensor.numel() for name, tensor in weights(finished).items() if "conv" in name or "fc" in name)
    assert stored == summary["params"]


def test_learns(tmp_path: Path) -> None:
    summary = run(quick(tmp_path / "run", epochs=8, every=10))
    assert summary["test_accuracy"] > 0.9
    logged = lines(tmp_path / "run")
    half = logged[-1]["step"] // 2
    assert min(line["step"] for line in logged if line["kind"] == "projection") == -(-half // 10) * 10


def test_same_seed_same_weights_and_other_seed_others(finished: Path, tmp_path: Path) -> None:
    run(quick(tmp_path / "again"))
    again, before = weights(tmp_path / "again"), weights(finished)
    assert all(torch.equal(before[name], again[name]) for name in before)
    run(quick(tmp_path / "other", seed=4))
    assert not torch.equal(before["fc.weight"], weights(tmp_path / "other")["fc.weight"])


class Killed(Exception):
    """Stands for a process that died."""


@pytest.mark.parametrize(
    "projecting",
    [
        {"every": "epoch"},
        {"every": 7, "project_from": 0},
        {"every": 3, "project_from": 0, "descent": 0.8, "allocate": "energy"},
    ],
)
def test_killed_run_resumes_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, projecting: dict[str, Any]
) -> None:
    """Killed in the middle of an epoch, after steps that the checkpoint does not hold."""
    changes: dict[str, Any] = {"epochs": 3, "schedule": "cosine", "crop_padding": 1, **projecting}
    run(quick(tmp_path / "whole", **changes))

    taken = 0
    step = lrpet.Projector.step

    def dying(self: lrpet.Projector) -> Any:
        nonlocal taken
        taken += 1
        if taken == 15:
            raise Killed
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(lrpet.Projector, "step", dying)
        with pytest.raises(Killed):
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


@pytest.mark.parametrize(("how", "said"), [("energy", "most energy"), ("sensitivity", "most worth")])
def test_ranks_that_fall_to_a_budget_divided_by_what_weights_are(tmp_path: Path, how: str, said: str) -> None:
    options = {
        "every": 4,
        "project_from": 0,
        "descent": 0.6,
        "allocate": how,
        "multiple_of": 2,
        "macs": 0.4,
        "params": 0.5,
    }
    summary = run(quick(tmp_path / "run", epochs=3, **options))
    plan = lrpet.Plan.from_json((tmp_path / "run" / "plan.json").read_text())
    assert summary["budget"] == plan.budget
    assert plan.budget.startswith(f"macs=0.4, params=0.5 ({said}")
    assert summary["macs"] == plan.macs <= 0.4 * summary["macs_dense"]
    assert summary["params"] == plan.params <= 0.5 * summary["params_dense"]
    assert all(rank % 2 == 0 for rank in plan.ranks.values())
    in_force = [line["ranks"] for line in lines(tmp_path / "run") if "ranks" in line]
    assert len(in_force) > 2
    assert in_force[0] != in_force[-1] == plan.ranks
    loaded = lrpet.load(tmp_path / "run" / "compact")
    assert loaded.lrpet_plan == plan
    with pytest.raises(ValueError, match=r"allocate=energy divides a budget .* in place of keep"):
        quick(tmp_path / "other", allocate="energy", macs=None, keep=0.5)
    with pytest.raises(ValueError, match=r"allocate=energy divides a budget .* in place of the plan"):
        quick(tmp_path / "other", allocate="energy", macs=None, plan=tmp_path / "run" / "plan.json")
    with pytest.raises(ValueError, match="nothing is trained when projections begin"):
        quick(tmp_path / "other", allocate="energy", project_from=0)


@pytest.mark.parametrize(
    ("options", "allocator"),
    [
        ({"every": 2}, "energy"),
        ({"every": "epoch", "project_from": 0.6}, "energy"),
        ({"every": 2, "project_from": 0.2}, "uniform"),
        ({}, "uniform"),  # once an epoch from the start
        ({"every": 2, "allocate": "uniform"}, "uniform"),
        ({"every": 2, "descent": 0.6}, "uniform"),
        ({"every": 2, "macs": None, "keep": 0.5}, "uniform"),
        ({"every": 2, "macs": None, "plan": "plan.json"}, "uniform"),
        ({"every": 2, "macs": None, "method": "dense"}, "uniform"),
    ],
)
def test_by_default_ranks_are_divided_by_what_has_trained(
    tmp_path: Path, options: dict[str, Any], allocator: str
) -> None:
    assert quick(tmp_path / "run", **options).allocator == allocator


def test_ranks_that_are_divided_at_the_first_projection(tmp_path: Path) -> None:
    run(quick(tmp_path / "run", every=2, epochs=3, macs=0.4))
    in_force = [(line["step"], line["ranks"]) for line in lines(tmp_path / "run") if "ranks" in line]
    plan = lrpet.Plan.from_json((tmp_path / "run" / "plan.json").read_text())
    assert plan.budget.startswith("macs=0.4 (most energy")
    assert in_force[0] == (16, plan.ranks)  # of 33 steps
    assert all(ranks == plan.ranks for _, ranks in in_force)


@pytest.mark.parametrize(
    "limit", [{"min_rank": 2}, {"max_rank": 9}, {"multiple_of": 4}, {"layers": ("*",)}, {"factorize_all": True}]
)
def test_a_plan_takes_no_limits(tmp_path: Path, limit: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"a plan says the rank of every layer itself: leave out {next(iter(limit))}$"):
        quick(tmp_path / "run", macs=None, plan=tmp_path / "plan.json", **limit)


def test_a_run_starts_from_given_weights(tmp_path: Path) -> None:
    dense = tmp_path / "dense"
    run(quick(dense, method="dense", macs=None, epochs=1))
    given = weights(dense)
    for start in (dense, dense / "compact", dense / "compact" / "model.safetensors"):
        network = Task.of(quick(tmp_path / "other", start=start)).network.state_dict()
        assert given.keys() == network.keys()
        assert all(torch.equal(given[name], network[name]) for name in given)
    with pytest.raises(FileNotFoundError, match=r"nowhere: no file, nor a folder with model\.safetensors"):
        Task.of(quick(tmp_path / "other", start=tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="does not hold the weights of this network"):
        Task.of(quick(tmp_path / "other", start=dense, model="resnet32"))
    (tmp_path / "broken").write_text("no weights")
    with pytest.raises(ValueError, match="does not hold the weights of this network"):
        Task.of(quick(tmp_path / "other", start=tmp_path / "broken"))


def test_resume_without_a_checkpoint_starts_afresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dying(self: lrpet.Projector) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(lrpet.Projector, "step", dying)
        with pytest.raises(Killed):
            run(quick(tmp_path / "run", epochs=1))
    assert run(quick(tmp_path / "run", epochs=1), resume=True)["epochs"] == 1


def test_a_resumed_run_keeps_the_plan_it_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dying(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(lrpet.Projector, "step", dying)
        with pytest.raises(Killed):
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


def test_damaged_checkpoint_is_refused(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    (model,) = (tmp_path / "run" / "checkpoints").rglob("model.safetensors")
    model.write_bytes(model.read_bytes()[:100])
    with pytest.raises(ValueError, match="damaged"):
        run(quick(tmp_path / "run"), resume=True)


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
        "layers": ("*.mlp.*",),
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
    with pytest.raises(ValueError, match="batch_size=31 is odd"):
        run(quick(tmp_path / "odd", **{**changes, "batch_size": 31}))


def test_folder_of_images(tmp_path: Path) -> None:
    write_folder(tmp_path / "images")
    config = {"data": f"folder:{tmp_path / 'images'}", "image_size": 32, "batch_size": 4, "num_workers": 0, "epochs": 1}
    summary = run(quick(tmp_path / "run", **config))
    assert summary["data"] == config["data"]
    assert lrpet.read_metadata(tmp_path / "run" / "compact")["classes"] == ["cat", "dog"]
    assert evaluate(tmp_path / "run").accuracy == pytest.approx(summary["test_accuracy"], abs=1e-9)


def test_compiled_training_learns_the_same(finished: Path, tmp_path: Path) -> None:
    """The compiled network's weights are the projected and saved ones; its arithmetic differs in the last digits only."""
    run(quick(tmp_path / "run", compile=True))
    losses = [
        [line["train_loss"] for line in lines(folder) if line["kind"] == "epoch"]
        for folder in (finished, tmp_path / "run")
    ]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


def test_test_set_is_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every score is taken on the batches of one part; those of the test part are taken once, at the very end."""
    seen: list[str] = []
    task_batches = Task.batches

    def watched(self: Any, config: Any, images: Any, device: Any, **options: Any) -> Any:
        seen.append("test" if images is self.dataset.test else "other")
        return task_batches(self, config, images, device, **options)

    monkeypatch.setattr(Task, "batches", watched)
    run(quick(tmp_path / "run"))
    assert seen.count("test") == 1
    assert seen[-1] == "test"
