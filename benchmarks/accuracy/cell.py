"""Compute one result: train by a method, save, read back from disk, measure.

    python -m benchmarks.accuracy.cell RESULTS --model resnet20 --data cifar10 --data-dir DATA --method lrpet --keep 0.38 \\
        --epochs 12 --seed 0

A result that is there already is not computed again. A run that was cut off goes on from its last epoch.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

import lrpet
from benchmarks.accuracy.methods import METHODS
from benchmarks.accuracy.run import Cell, Phase, Run
from benchmarks.accuracy.store import Store
from benchmarks.script import parser_of
from lrpet.train.measure import score
from lrpet.train.preemption import PreemptedError
from lrpet.train.provenance import provenance

#: The number of training images from which batch norm's statistics are re-estimated.
REESTIMATED_FROM = 10_000
#: The most points kept of a curve of pruned energy.
POINTS = 200


def compute(cell: Cell, options: Mapping[str, Any], *, work: Path) -> dict[str, Any]:
    """Train and measure: return the cell, its costs, accuracies, seconds and provenance, and its curves."""
    source = provenance()
    run = Run(cell, options, work)
    compact = _through_disk(METHODS[cell.method](run), run, work / cell.name / "compact")
    counted = lrpet.plan(compact, run.task.example, ranks={})
    settings = [_settings(phase, work) for phase in run.phases]
    return {
        **vars(cell),
        # Convolutions and linears, as papers count.
        "macs": counted.layer_macs_dense,
        "macs_dense": run.plan.layer_macs_dense,
        "params": counted.layer_params_dense,
        "params_dense": run.plan.layer_params_dense,
        "ranks": run.phases[-1].plan.ranks,
        **_accuracies(compact, run),
        "seconds": sum(phase.seconds["training"] for phase in run.phases),
        "cpu_seconds": sum(phase.seconds["cpu"] for phase in run.phases),
        "projecting_seconds": sum(phase.seconds["projecting"] for phase in run.phases),
        "command": source["command"],
        "commit": source["commit"],
        "hardware": source["hardware"],
        "versions": source["versions"],
        "settings": settings,
        **_curves(run),
    }


def _settings(phase: Phase, work: Path) -> dict[str, Any]:
    """Return a training's options, in which nothing says where the folder of checkpoints was."""
    options: dict[str, Any] = phase.config.model_dump(mode="json", exclude={"output", "data_dir"})
    if phase.config.teacher is not None:
        options["teacher"] = str(Path(phase.config.teacher).relative_to(work))
    return options


def _through_disk(compact: nn.Module, run: Run, path: Path) -> nn.Module:
    if run.cell.method == "pruning":  # only the pickled network knows its shapes
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(compact.cpu(), path.with_suffix(".pt"))
        pruned: nn.Module = torch.load(path.with_suffix(".pt"), weights_only=False)
        return pruned
    lrpet.save(compact.cpu(), path, overwrite=True)
    return lrpet.load(path, run.network())


def _accuracies(compact: nn.Module, run: Run) -> dict[str, float | None]:
    config = run.phases[-1].config
    task = replace(run.task, config=config)
    device = torch.device(
        "cuda" if config.device == "cuda" or (config.device == "auto" and torch.cuda.is_available()) else "cpu"
    )
    reestimated = copy.deepcopy(compact).to(device)
    training = task.batches(task.train, device, training=True)
    few: Iterator[tuple[Tensor, Tensor]] = itertools.islice(training, -(-REESTIMATED_FROM // config.batch_size))
    update_bn(few, reestimated)
    accuracies: dict[str, float | None] = {}
    for suffix, network in (("", compact.to(device)), ("_bn_reestimated", reestimated)):
        for name, images in (("val", task.validation), ("test", task.dataset.test)):
            scored = score(network, task.batches(images, device, training=False)) if len(images) else None
            accuracies[f"{name}_accuracy{suffix}"] = scored.accuracy if scored else None
    return accuracies


def _curves(run: Run) -> dict[str, dict[str, list[Any]]]:
    """Return loss and accuracy of every epoch, and the mean fraction of energy that each projection pruned.

    Where there are more than `POINTS` projections, only every so many are told, the last among them.
    """
    epochs = [line for phase in run.phases for line in phase.metrics if line["kind"] == "epoch"]
    projections = [line for phase in run.phases for line in phase.metrics if line["kind"] != "epoch"]
    every = max(1, -(-len(projections) // POINTS))
    projections = projections[::-1][::every][::-1]
    curve = {key: [line[key] for line in epochs] for key in ("lr", "train_loss", "train_accuracy", "val_accuracy")}
    return {
        "curve": {"epoch": list(range(1, 1 + len(epochs))), **curve},
        "pruned": {key: [line[key] for line in projections] for key in ("step", "lr", "pruned")},
    }


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that one cell and a grid of cells have in common."""
    parser.add_argument("results", type=Path, help="folder of accuracy.jsonl and accuracy-curves.jsonl")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--work", type=Path, default=Path("runs/accuracy"), help="folder of checkpoints")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--precision", choices=["no", "bf16", "fp16"], default="no")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--cuda-graphs", action="store_true")
    parser.add_argument("--checkpoint-every", type=int, default=1, help="epochs between checkpoints [1]")


def add_network(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what is trained, and on what."""
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--data", default="cifar10")


def options_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the options that go into every training's configuration."""
    names = (
        *("data_dir", "batch_size", "device", "precision", "channels_last", "compile", "cuda_graphs"),
        "checkpoint_every",
    )
    return {name: getattr(arguments, name) for name in names}


def main(argv: list[str] | None = None) -> int:
    parser = parser_of(__doc__)
    add_options(parser)
    add_network(parser)
    parser.add_argument("--method", choices=METHODS, required=True)
    parser.add_argument("--keep", type=float, help="fraction of every layer's rank (not with dense)")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(argv)
    if (given.keep is None) != (given.method == "dense"):
        parser.error("every method but dense needs --keep, and dense takes none")
    cell = Cell(given.model, given.data, given.method, given.keep, given.epochs, given.seed)
    store = Store(given.results)
    if cell.name in store.names():
        print(f"{cell.name} is there already")
        return 0
    try:
        result = compute(cell, options_of(given), work=given.work)
    except PreemptedError as told:
        print(f"{cell.name}: {told}", file=sys.stderr)
        return PreemptedError.exit_status
    folders = {str(given.data_dir): "DATA", str(given.work): "RUNS", str(given.results): "RESULTS"}
    words = (folders.get(word, word) for word in result["command"].split())
    store.add({**result, "command": " ".join(words)})
    print(f"{cell.name}: test accuracy {result['test_accuracy']:.2%}, BN re-estimated ", end="")
    print(
        f"{result['test_accuracy_bn_reestimated']:.2%}, {result['macs'] / result['macs_dense']:.1%} of the multiply-adds"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
