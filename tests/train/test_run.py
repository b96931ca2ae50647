"""Whole training runs: what they leave, and that a seed decides them."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
import torch

import lrpet
from lrpet.train.config import make_config, read_config
from lrpet.train.data import sets
from lrpet.train.run import evaluate
from lrpet.train.task import Task
from runs import lines, quick, run, weights


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
    epochs = [line for line in lines(finished) if line["kind"] == "epoch"]
    images = epochs[0]["images_per_second"] * epochs[0]["seconds"]
    assert images == pytest.approx(epochs[0]["step"] * 128)
    assert any((finished / "trackers").iterdir())
    assert f"{summary['test_accuracy']:.2%}" in (finished / "summary.txt").read_text()
    assert make_config(json.loads(json.dumps(summary["config"]))) == quick(finished)


def test_summary_is_of_the_network_on_disk(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    assert evaluate(finished, part="test").accuracy == pytest.approx(summary["test_accuracy"], abs=1e-9)
    assert evaluate(finished, part="validation").accuracy == pytest.approx(summary["val_accuracy"], abs=1e-9)
    stored = {name: tensor.numel() for name, tensor in weights(finished).items() if "running" not in name}
    assert sum(count for name, count in stored.items() if "num_batches" not in name) == summary["params"]
    assert torch.equal(lrpet.load(finished).state_dict()["fc.bias"], weights(finished)["fc.bias"])
    layers = sum(count for name, count in stored.items() if "conv" in name or "fc" in name)
    assert layers == summary["layer_params"]


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

    def watched(self: Any, images: Any, device: Any, **options: Any) -> Any:
        seen.append("test" if images is self.dataset.test else "other")
        return task_batches(self, images, device, **options)

    monkeypatch.setattr(Task, "batches", watched)
    run(quick(tmp_path / "run"))
    assert seen.count("test") == 1
    assert seen[-1] == "test"


@pytest.mark.parametrize("data", [None, "digits"])
def test_a_saved_network_is_scored_on_the_data_it_names(finished: Path, data: str | None) -> None:
    assert evaluate(finished / "compact", data=data) == evaluate(finished)


def test_a_saved_network_is_scored_with_its_own_normalisation(finished: Path, tmp_path: Path) -> None:
    compact = lrpet.load(finished / "compact")
    metadata = lrpet.read_metadata(finished / "compact")
    lrpet.save(compact, tmp_path / "other", metadata={**metadata, "mean": [0.9], "std": [0.1]})
    lrpet.save(compact, tmp_path / "bare")
    assert evaluate(tmp_path / "bare", data="digits") == evaluate(finished)
    assert evaluate(tmp_path / "other").loss != evaluate(finished).loss
    with pytest.raises(ValueError, match="does not say what its network was trained on"):
        evaluate(tmp_path / "bare")
    lrpet.save(compact, tmp_path / "few", metadata={**metadata, "classes": ["a", "b"]})
    with pytest.raises(ValueError, match=r"digits has classes .* was trained on classes \['a', 'b'\]"):
        evaluate(tmp_path / "few")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mean", []), ("mean", None), ("mean", [0.1, 0.2]), ("std", []), ("std", [0.0]), ("std", ["0.5"]), ("data", [1]),
        ("in_channels", True), ("classes", 10),
    ],
)  # fmt: skip
def test_metadata_that_says_no_such_thing_is_refused(finished: Path, tmp_path: Path, name: str, value: Any) -> None:
    metadata = {**lrpet.read_metadata(finished / "compact"), name: value}
    lrpet.save(lrpet.load(finished / "compact"), tmp_path / "other", metadata=metadata)
    with pytest.raises(ValueError, match=rf"has the metadata {name}=|has a mean of 2 numbers and a std of 1"):
        evaluate(tmp_path / "other")


@pytest.mark.parametrize("data", ["cifar10", "fashion-mnist", "hf:nobody/nothing"])
def test_scoring_the_run_of_somebody_else_writes_and_downloads_nothing(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: str
) -> None:
    def connected(*_: object) -> None:
        raise AssertionError("something is asked for")

    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    metadata = lrpet.read_metadata(finished / "compact")
    lrpet.save(lrpet.load(finished / "compact"), run / "compact", metadata={**metadata, "data": data})
    config = read_config(finished / "config.yaml").model_dump(mode="json")
    (run / "config.yaml").write_text(
        make_config({**config, "data": data, "data_dir": None if ":" in data else tmp_path / "far" / "away"}).to_yaml()
    )
    monkeypatch.setattr(sets, "DEBIAN_FASHION_MNIST", tmp_path / "nothing")
    monkeypatch.setattr(socket.socket, "connect", connected)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(FileNotFoundError, match=r"set download to fetch it|is no folder of a data set"):
        evaluate(run)
    assert sorted(tmp_path.rglob("*")) == before


def test_what_was_held_out_is_known_to_a_run_alone(finished: Path) -> None:
    with pytest.raises(ValueError, match="give the run's folder"):
        evaluate(finished / "compact", part="validation")
    with pytest.raises(ValueError, match="give the run's folder"):
        evaluate(finished, part="validation", data="cifar10")


def test_gradients_are_clipped_to_a_norm(tmp_path: Path) -> None:
    """What moves weights in one step of plain SGD is the gradient: its norm, times the learning rate."""
    options: dict[str, Any] = {"model": "resnet8", "method": "dense", "macs": None, "epochs": 1, "batch_size": 1024}
    options |= {"schedule": "constant", "momentum": 0.0, "weight_decay": 0.0, "lr": 0.5}
    for clip_grad in (1e-3, 1e9):
        config = quick(tmp_path / str(clip_grad), clip_grad=clip_grad, reestimate_bn=False, **options)
        before = Task.of(config).network
        run(config)
        after = weights(config.folder)
        moved = [after[name] - parameter.detach() for name, parameter in before.named_parameters()]
        assert len(lines(config.folder)) == 1
        norm = float(torch.cat([change.flatten() for change in moved]).norm()) / 0.5
        assert norm == pytest.approx(1e-3, rel=1e-3) if clip_grad == 1e-3 else norm > 0.1
