"""The training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from torch import nn

import lrpet
from lrpet.train.config import Config
from lrpet.train.console import Console
from lrpet.train.data.augment import Augment
from lrpet.train.folder import RunFolder
from lrpet.train.measure import Running, Score, score
from lrpet.train.optim import make_optimizer, make_schedule
from lrpet.train.ranks import descent, plan_in_training
from lrpet.train.task import Task


@dataclass
class Trained:
    """A network after its last step and projection, on the CPU."""

    network: nn.Module
    plan: lrpet.Plan
    """The one in force at the end."""
    device: torch.device
    seconds: dict[str, float]
    """Wall time of training, with projections ("training"), and of projections ("projecting"); processor time ("cpu")."""


def fit(
    network: nn.Module,
    plan: lrpet.Plan,
    config: Config,
    task: Task,
    folder: RunFolder,
    console: Console,
    *,
    before_step: Callable[[lrpet.Projector], None] | None = None,
    after_epoch: Callable[[int, Score | None], None] | None = None,
) -> Trained:
    """Train `network` to the end, projecting as `plan` says; from the checkpoint, if the folder has one.

    `before_step`, if given, is called with the projector between each backward pass and optimizer step: it may change
    gradients. `after_epoch` is told the number of epochs done and the validation score.

    Raises ValueError if training diverges, or the config does not fit the machine.
    """
    try:
        return _fit(network, plan, config, task, folder, console, before_step, after_epoch)
    finally:  # else no later training in this process could differ in device or precision
        AcceleratorState._reset_state(reset_partial_state=True)


def _fit(
    network: nn.Module,
    plan: lrpet.Plan,
    config: Config,
    task: Task,
    folder: RunFolder,
    console: Console,
    before_step: Callable[[lrpet.Projector], None] | None,
    after_epoch: Callable[[int, Score | None], None] | None,
) -> Trained:
    accelerator = _accelerator(config)
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
        plan_in_training(config, network, task, plan, accelerator),
        total_steps=config.epochs * len(steps),
        every=config.projection_schedule(len(steps)),
        start=config.projection_start(len(steps)),
        energy_transfer=config.energy_transfer,
        rectify=config.rectify,
        tail_scale=config.tail_scale,
        descent=descent(config),
        solver=config.solver,
    )
    augment = Augment(config, len(task.dataset.classes))
    set_seed(config.seed)
    progress = folder.load_checkpoint(accelerator, projector)

    for epoch in range(progress.epoch, config.epochs):
        begin, cpu_begin = time.perf_counter(), time.process_time()
        steps.set_epoch(epoch)
        model.train()
        running = Running(accelerator.device)
        for images, labels in console.epoch(epoch, steps, running, projector):
            with accelerator.autocast():
                augmented, targets = augment(images, labels)
                logits = model(augmented)
                loss = augment.loss(logits, targets)
            accelerator.backward(loss)
            if before_step is not None:
                before_step(projector)
            optimizer.step()
            optimizer.zero_grad()
            rate = schedule.get_last_lr()[0]
            schedule.step()
            running.add(loss, logits, labels)
            if (report := projector.step()) is not None and plan.ranks:
                folder.log_projection(report, lr=rate)
        trained = running.score()
        if not math.isfinite(trained.loss):
            raise ValueError(
                f"the loss is {trained.loss} in epoch {epoch + 1}: training has diverged. Lower lr, now {config.lr:g}."
            )
        progress = progress.advanced(time.perf_counter() - begin, time.process_time() - cpu_begin)
        held_out = score(network, validation, autocast=accelerator.autocast()) if len(task.validation) else None
        folder.log_epoch(progress, projector, trained, held_out, lr=schedule.get_last_lr()[0])
        console.epoch_done(progress, projector, trained, held_out)
        if progress.epoch % config.checkpoint_every == 0 or progress.epoch == config.epochs:
            folder.save_checkpoint(accelerator, projector, progress)
        if after_epoch is not None:
            after_epoch(progress.epoch, held_out)

    projector.project()
    network = accelerator.unwrap_model(prepared, keep_fp32_wrapper=False).to("cpu")
    seconds = {"training": progress.seconds, "projecting": projector.seconds, "cpu": progress.cpu_seconds}
    return Trained(network, projector.plan, accelerator.device, seconds)


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
