"""A training run from config to summary, in a folder of its own.

In the folder:

    config.yaml         the resolved config                plan.json     what was decided for every layer
    metrics.jsonl       an object per epoch, projection    tensorboard/  the same as curves
    checkpoints/        the latest state, to resume from   compact/      the compact network (lrpet.load reads it)
    summary.json        what came out                      summary.txt   the same as a table
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import torch
from torch.optim.swa_utils import update_bn

import lrpet
from lrpet.train.config import Config, read_config
from lrpet.train.console import Console, as_text, summary_table
from lrpet.train.data import sets as data
from lrpet.train.data.batches import batches
from lrpet.train.fit import Trained, fit
from lrpet.train.folder import RunFolder
from lrpet.train.measure import Score, latency, score, size_in_bytes
from lrpet.train.provenance import provenance
from lrpet.train.task import Task


def train(config: Config, *, resume: bool = False, console: Console | None = None) -> dict[str, Any]:
    """Train as `config` says, and return the summary that is also left in the run folder.

    Raises:
        FileExistsError: the run folder exists and `resume` is not set.
        FileNotFoundError: the data is not there.
        ValueError: the config does not fit the data, the network, or the run that is resumed; or training diverged.
    """
    console = console or Console()
    RunFolder.check(config, resume=resume)
    task = Task.of(config)
    with RunFolder.opened(config, task.plan) as folder, console.run(config, folder.plan):
        source = provenance()  # of the code that trains, should it change meanwhile
        trained = fit(task.network, folder.plan, config, task, folder, console)
        folder.write_plan(trained.plan)
        summary = {**_finish(config, task, folder, trained), **source}
        folder.write_summary(summary, as_text(summary_table([summary])))
        console.summary(summary)
    return summary


def _finish(config: Config, task: Task, folder: RunFolder, trained: Trained) -> dict[str, Any]:
    """Factorise, save, read back from disk, and measure what was read back."""
    device = trained.device
    validation = task.batches(config, task.validation, device, training=False)
    compact = lrpet.factorize(trained.network, trained.plan)
    as_it_comes = score(compact.to(device), validation).accuracy if len(task.validation) else None
    if config.reestimate_bn:
        update_bn(task.batches(config, task.train, device, training=True), compact)
    lrpet.save(compact.cpu(), folder.compact, overwrite=True, metadata=task.dataset.metadata)

    compact = lrpet.load(folder.compact)
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    contenders = {"dense": trained.network, "compact": compact.to(memory_format=layout)}
    of_one, of_64 = (
        latency(contenders, task.example.expand(count, -1, -1, -1).contiguous(memory_format=layout))
        for count in (1, 64)
    )
    sizes = {"dense": size_in_bytes(trained.network), "compact": size_in_bytes(compact)}
    compact.to(device)
    test = task.batches(config, task.dataset.test, device, training=False)
    return {
        "model": config.model,
        "data": config.data,
        "method": config.method,
        "budget": trained.plan.budget,
        "epochs": config.epochs,
        "seed": config.seed,
        "macs_dense": trained.plan.macs_dense,
        "macs": trained.plan.macs,
        "params_dense": trained.plan.params_dense,
        "params": trained.plan.params,
        "bytes_dense": sizes["dense"],
        "bytes": sizes["compact"],
        "cpu_milliseconds_dense": of_one["dense"],
        "cpu_milliseconds": of_one["compact"],
        "cpu_milliseconds_of_64_dense": of_64["dense"],
        "cpu_milliseconds_of_64": of_64["compact"],
        "val_accuracy_before_bn_reestimation": as_it_comes,
        "val_accuracy": score(compact, validation).accuracy if len(task.validation) else None,
        "test_accuracy": score(compact, test).accuracy,
        "seconds": trained.seconds,
        "config": config.model_dump(mode="json"),
    }


def evaluate(
    folder: str | os.PathLike[str],
    *,
    part: Literal["validation", "test"] = "test",
    data_dir: Path | None = None,
    device: str | torch.device = "cpu",
    batch_size: int = 256,
) -> Score:
    """Score the compact network of a run folder on a part of the data it was trained for, as the run itself did.

    Raises FileNotFoundError or ValueError if `folder` is no finished run, or its data is not to be found.
    """
    path = Path(folder)
    config = read_config(path / "config.yaml")
    compact = lrpet.load(path / "compact", device=device)
    dataset = data.load(config.data, data_dir or config.data_dir, image_size=config.image_size)
    _, validation = data.split(dataset.train, holdout=config.holdout, seed=config.seed)
    images = dataset.test if part == "test" else validation
    return score(compact, batches(images, dataset, batch_size=batch_size, device=torch.device(device), train=False))
