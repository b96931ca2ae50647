"""A training run from config to summary, in a folder of its own.

In the folder:

    config.yaml         the resolved config                plan.json     what was decided for every layer
    metrics.jsonl       an object per epoch, projection    tensorboard/  the same as curves
    checkpoints/        the latest state, to resume from   compact/      the compact network (lrpet.load reads it)
    summary.json        what came out                      summary.txt   the same as a table
"""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn

import lrpet
from lrpet import models
from lrpet.train import data
from lrpet.train.batches import batches
from lrpet.train.config import Config, read_config
from lrpet.train.console import Console, as_text, summary_table
from lrpet.train.folder import RunFolder
from lrpet.train.measure import Running, Score, latency, score, size_in_bytes
from lrpet.train.optim import make_optimizer, make_schedule
from lrpet.train.provenance import provenance


def train(config: Config, *, resume: bool = False, console: Console | None = None) -> dict[str, Any]:
    """Train as `config` says, and return the summary that is also left in the run folder.

    Raises:
        FileExistsError: the run folder exists and `resume` is not set.
        FileNotFoundError: the data is not there.
        ValueError: the config does not fit the data, the network, or the run that is resumed; or training diverged.
    """
    console = console or Console()
    RunFolder.check(config, resume=resume)
    torch.manual_seed(config.seed)
    task = _Task.of(config)
    with RunFolder.opened(config, task.plan) as folder, console.run(config, task.plan):
        try:
            source = provenance()  # of the code that trains, should it change meanwhile
            summary = {**_finish(config, task, folder, _fit(config, task, folder, console)), **source}
        finally:
            AcceleratorState._reset_state(
                reset_partial_state=True
            )  # else no later run may differ in device or precision
        folder.write_summary(summary, as_text(summary_table([summary])))
        console.summary(summary)
    return summary


@dataclass(frozen=True)
class _Task:
    """What a config stands for: a network, its plan, and the three parts of the data."""

    dataset: data.Dataset
    train: data.Images
    validation: data.Images
    network: nn.Module
    plan: lrpet.Plan
    example: Tensor

    @classmethod
    def of(cls, config: Config) -> _Task:
        dataset = data.load(config.data, config.data_dir, image_size=config.image_size)
        train_part, validation = data.split(dataset.train, holdout=config.holdout, seed=config.seed)
        if len(train_part) < config.batch_size:
            raise ValueError(
                f"batch_size={config.batch_size} is more than the {len(train_part)} training images of {config.data}"
            )
        network = models.create(
            config.model,
            num_classes=len(dataset.classes),
            in_channels=dataset.in_channels,
            pretrained=config.pretrained,
        )
        example = torch.zeros(1, dataset.in_channels, dataset.image_size, dataset.image_size)
        return cls(dataset, train_part, validation, network, _plan(config, network, example), example)

    def batches(self, config: Config, images: data.Images, device: torch.device, *, training: bool) -> data.Batches:
        return batches(
            images,
            self.dataset,
            batch_size=config.batch_size,
            device=device,
            train=training,
            seed=config.seed,
            crop_padding=config.crop_padding,
            flip=config.flip,
            channels_last=config.channels_last,
            num_workers=config.num_workers,
        )


def _plan(config: Config, network: nn.Module, example: Tensor) -> lrpet.Plan:
    if config.method == "dense":
        return lrpet.plan(network, example, ranks={})
    return lrpet.plan(
        network,
        example,
        keep=config.keep,
        macs=config.macs,
        params=config.params,
        rectify=config.rectify,
        factorize_all=config.factorize_all,
    )


def _accelerator(config: Config) -> Accelerator:
    accelerator = Accelerator(
        cpu=config.device == "cpu", mixed_precision=config.precision, step_scheduler_with_optimizer=False
    )
    if config.device == "cuda" and accelerator.device.type != "cuda":
        raise ValueError(
            "device=cuda, but torch finds no CUDA device: use device=cpu, or install a CUDA build of torch"
        )
    if accelerator.num_processes > 1:
        raise ValueError("lrpet train runs in one process: start it without a multi-process launcher")
    return accelerator


@dataclass
class _Trained:
    """The full-size network after its last step and projection, on the CPU."""

    network: nn.Module
    device: torch.device
    seconds: dict[str, float]


def _fit(config: Config, task: _Task, folder: RunFolder, console: Console) -> _Trained:
    """Train the full-size network to the end; from the checkpoint, if the folder has one."""
    accelerator = _accelerator(config)
    network = task.network
    if config.channels_last:
        network.to(memory_format=torch.channels_last)
    steps = task.batches(config, task.train, accelerator.device, training=True)
    validation = task.batches(config, task.validation, accelerator.device, training=False)
    optimizer = make_optimizer(config, network)
    schedule = make_schedule(config, optimizer, len(steps))
    prepared, optimizer, schedule = accelerator.prepare(network, optimizer, schedule)
    model: nn.Module = torch.compile(prepared) if config.compile else prepared  # type: ignore[assignment]
    projector = lrpet.Projector(
        network,
        task.plan,
        every=len(steps) if config.every == "epoch" else config.every,
        energy_transfer=config.energy_transfer,
        rectify=config.rectify,
        tail_scale=config.tail_scale,
        solver=config.solver,
    )
    set_seed(config.seed)
    progress = folder.load_checkpoint(accelerator, projector)

    for epoch in range(progress.epoch, config.epochs):
        begin = time.perf_counter()
        steps.set_epoch(epoch)
        model.train()
        running = Running(accelerator.device)
        for images, labels in console.epoch(epoch, steps, running, projector):
            with accelerator.autocast():
                logits = model(images)
                loss = F.cross_entropy(logits, labels, label_smoothing=config.label_smoothing)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            running.add(loss, logits, labels)
            if (report := projector.step()) is not None and task.plan.ranks:
                folder.log_projection(report)
        trained = running.score()
        if not math.isfinite(trained.loss):
            raise ValueError(
                f"the loss is {trained.loss} in epoch {epoch + 1}: training has diverged. Lower lr, now {config.lr:g}."
            )
        progress = progress.advanced(time.perf_counter() - begin)
        held_out = score(network, validation, autocast=accelerator.autocast()) if len(task.validation) else None
        folder.log_epoch(progress, projector, trained, held_out, lr=schedule.get_last_lr()[0])
        console.epoch_done(progress, projector, trained, held_out)
        if progress.epoch % config.checkpoint_every == 0 or progress.epoch == config.epochs:
            folder.save_checkpoint(accelerator, projector, progress)

    projector.project()
    network = accelerator.unwrap_model(prepared, keep_fp32_wrapper=False).to("cpu")
    seconds = {"training": progress.seconds, "projecting": projector.seconds}
    return _Trained(network, accelerator.device, seconds)


def _finish(config: Config, task: _Task, folder: RunFolder, trained: _Trained) -> dict[str, Any]:
    """Factorise, save, read back from disk, and measure what was read back."""
    device = trained.device
    validation = task.batches(config, task.validation, device, training=False)
    compact = lrpet.factorize(trained.network, task.plan)
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
        "budget": task.plan.budget,
        "epochs": config.epochs,
        "seed": config.seed,
        "macs_dense": task.plan.macs_dense,
        "macs": task.plan.macs,
        "params_dense": task.plan.params_dense,
        "params": task.plan.params,
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
