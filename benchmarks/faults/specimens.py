"""A whole file or folder of every format that the project reads, but for data, and the command that reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import torch
import yaml
from safetensors.torch import save_file

import lrpet
from benchmarks.faults.data_specimens import tried
from benchmarks.faults.forks import forked
from benchmarks.faults.runs import config_of, train
from benchmarks.faults.specimen import Specimen, digest_of, status_of
from lrpet import models
from lrpet.cli.failures import reported
from lrpet.compact.weights import digest
from lrpet.exporting import verify
from lrpet.train import fit
from lrpet.train.console import Console
from lrpet.train.data.sets import load
from lrpet.train.folder import RunFolder

# ── networks and runs ──────────────────────────────────────────────────────────────────────────────────────────────────


def _compact(folder: Path) -> None:
    torch.manual_seed(0)
    network = models.create("resnet8", in_channels=1)
    plan = lrpet.plan(network, torch.zeros(1, 1, 8, 8), keep=0.5)
    lrpet.save(lrpet.factorize(network, plan), folder / "compact", metadata=load("digits").metadata)


def _evaluated(folder: Path) -> tuple[int, str | None]:
    status = status_of(["eval", folder / "compact"])
    return status, None if status else digest_of(dict(lrpet.load(folder / "compact").state_dict()))


def _run(folder: Path) -> None:
    _trained(folder, "epochs", milestones=[], schedule="constant", epochs=2)


def _trained(folder: Path, name: str, **changes: Any) -> None:
    outcome = forked(lambda: train(config_of(name, folder / "run", **changes)))
    if outcome.status != 0:
        raise RuntimeError(f"{name} does not even run undisturbed: {outcome.said}")


def _resumed(folder: Path) -> tuple[int, str | None]:
    """Resume a run, and stop before it trains on."""
    read: list[str] = []

    def stop(self: Any, progress: Any, folder: RunFolder, console: Console) -> NoReturn:
        state = self.state
        read.append(digest_of([vars(progress)["epoch"], state.shared(), state.projector.state_dict()]))
        raise SystemExit(0)

    fit._Training.run = stop  # type: ignore[method-assign]  # in this fork alone
    status = status_of(["train", "--resume", "--output", folder / "run", "--epochs", "3"])
    return status, read[0] if read else None


# ── options, plans and tables ──────────────────────────────────────────────────────────────────────────────────────────


def _recipe(folder: Path) -> None:
    values = {
        **config_of("mixup", folder / "run").model_dump(mode="json"),
        "overrides": {"conv1": None, "layer3.*": 0.3},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")


def _config_read(folder: Path) -> tuple[int, str | None]:
    return status_of(["train", folder / "recipe.yaml", "--print-config"]), None


def _plan(folder: Path) -> None:
    plan = lrpet.plan(models.create("resnet8", in_channels=1), torch.zeros(1, 1, 8, 8), macs=0.5)
    (folder / "plan.json").write_text(plan.to_json(), encoding="utf-8")


def _plan_used(folder: Path) -> tuple[int, str | None]:
    return tried(folder, "--data", "digits", "--plan", folder / "plan.json"), None


def _table(folder: Path) -> None:
    plan = lrpet.plan(models.create("resnet8"), torch.zeros(1, 3, 32, 32), keep=0.5)
    layers = [layer for layer in plan.layers if layer.rows]
    lrpet.LatencyTable(
        network=10.0,
        dense={layer.name: 1.0 for layer in layers},
        factorised={layer.name: {4: 0.3, 8: 0.5, 16: 0.9} for layer in layers},
        source={"runtime": "eager", "device": "cpu", "input": [1, 3, 32, 32], "threads": 1},
        shapes={layer.name: str(layer.shape) for layer in layers},
    ).save(folder / "table.json")


def _table_used(folder: Path) -> tuple[int, str | None]:
    return status_of(["plan", "resnet8", "--latency", "0.6", "--latency-table", folder / "table.json"]), None


def _bench(folder: Path) -> None:
    network = models.create("resnet8")
    result = lrpet.bench({"dense": network}, torch.zeros(1, 3, 32, 32), seconds=0.05, layers=True)
    result.save(folder / "bench.json")


def _bench_read(folder: Path) -> tuple[int, str | None]:
    return reported(lambda: print(lrpet.Bench.load(folder / "bench.json"))), None


def _weights(folder: Path) -> None:
    save_file(dict(models.create("resnet8").state_dict()), folder / "weights.safetensors")


def _weights_used(folder: Path) -> tuple[int, str | None]:
    return status_of(["plan", "resnet8", "--keep", "0.5", "--weights", folder / "weights.safetensors"]), None


def _exported(folder: Path) -> None:
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 4))
    outcome = forked(lambda: str(lrpet.export(network, folder / "network.pt2", torch.zeros(2, 16)).path))
    if outcome.status != 0:
        raise RuntimeError(f"nothing can be exported, even undisturbed: {outcome.said}")


def _verified(folder: Path) -> tuple[int, str | None]:
    status = reported(lambda: print(verify(folder / "network.pt2").size))
    return status, None if status else digest(folder / "network.pt2")


SPECIMENS = (
    Specimen("compact network", _compact, _evaluated, ("compact/*.json", "compact/*.safetensors"), ("*.safetensors",)),
    Specimen("checkpoints", _run, _resumed, ("run/checkpoints/*/*",), ("run/checkpoints/*",), weight=2),
    Specimen("run", _run, _resumed, ("run/*.yaml", "run/plan.json", "run/metrics.jsonl", "run/compact/*")),
    Specimen("recipe", _recipe, _config_read, ("recipe.yaml",), weight=2),
    Specimen("plan", _plan, _plan_used, ("plan.json",)),
    Specimen("latency table", _table, _table_used, ("table.json",)),
    Specimen("comparison", _bench, _bench_read, ("bench.json",)),
    Specimen("weights", _weights, _weights_used, ("weights.safetensors",)),
    Specimen("exported network", _exported, _verified, ("network.pt2*",), ("network.pt2",), weight=0.5),
)
