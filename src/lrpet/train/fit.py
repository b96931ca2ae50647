"""The training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from torch import Tensor, nn

import lrpet
from lrpet.train.accelerator import as_it_was, make_accelerator
from lrpet.train.average import Average
from lrpet.train.checkpoints import Progress
from lrpet.train.config import Config
from lrpet.train.console import Console
from lrpet.train.data.augment import Augment
from lrpet.train.data.dataset import Dataset
from lrpet.train.data.options import Batches, in_parts
from lrpet.train.folder import RunFolder
from lrpet.train.graphs import Replayed
from lrpet.train.measure import Running, Score, score
from lrpet.train.optim import make_optimizer, make_schedule
from lrpet.train.preemption import PreemptedError, Preemption
from lrpet.train.processes import Processes
from lrpet.train.ranks import descent, plan_in_training
from lrpet.train.spectra import Spectra
from lrpet.train.state import TrainingState
from lrpet.train.task import Task
from lrpet.train.teacher import load_teacher
from lrpet.train.trackers import tracking


@dataclass(frozen=True)
class Hooks:
    """What a caller of `fit` does while it trains."""

    before_step: Callable[[lrpet.Projector, torch.optim.Optimizer], None] | None = None
    """Called with the projector and the optimizer between each backward pass and optimizer step; it may change gradients."""
    wrapped: Callable[[torch.optim.Optimizer], torch.optim.Optimizer] = lambda optimizer: optimizer
    """Called with the optimizer; it returns one that takes the steps in its place, and leaves all state to it."""
    after_epoch: Callable[[int, Score | None], None] | None = None
    """Called with the number of epochs done and the validation score."""
    first: int = 0
    """Epochs that another training did: data and learning rates go on from there. The projector counts from here."""
    last: int | None = None
    """The epoch to stop after, with the learning rates of all `config.epochs`; None to go on to the end."""


@dataclass(frozen=True)
class Trained:
    """A network after its last step and projection, on the CPU."""

    network: nn.Module
    plan: lrpet.Plan
    """The plan in force at the end."""
    device: torch.device
    """Where the network was trained."""
    seconds: dict[str, float]
    """Wall time of training, with all else ("training"), of projections ("projecting"), and of recording spectra in this
    process ("recording"); processor time ("cpu")."""


def fit(task: Task, folder: RunFolder, console: Console, *, hooks: Hooks | None = None) -> Trained:
    """Train the network of `task` to the end, projecting as its plan says; from the checkpoint, if the folder has one.

    Raises ValueError if training diverges, or the config does not fit the machine, and PreemptedError after SIGTERM or
    SIGUSR1, with a checkpoint written.
    """
    try:
        training = _Training(task, folder, hooks or Hooks())
        progress = training.resume(folder)
        step = training.projector.steps
        preempted = Preemption(folder.processes, training.accelerator.device)
        with preempted, tracking(training.accelerator, task.config, folder.path, step=step) as track:
            training.preempted = preempted
            folder.begin(step, track=track)
            training.spectra.begin(step)
            return training.run(progress, folder, console)
    finally:  # else no later training in this process could differ in device or precision
        AcceleratorState._reset_state(reset_partial_state=True)


class _Training:
    """What one training works with, on its device."""

    def __init__(self, task: Task, folder: RunFolder, hooks: Hooks) -> None:
        config, processes = task.config, folder.processes
        self.processes = processes
        self.first, self.last = hooks.first, config.epochs if hooks.last is None else hooks.last
        self.preempted: Preemption
        self.task, self.config, self.hooks, self.modality = task, config, hooks, task.modality
        self.accelerator = make_accelerator(config, folder.path, processes)
        device = self.accelerator.device
        if config.channels_last:
            task.network.to(memory_format=torch.channels_last)
        self.batches = task.batches(task.train, device, training=True, processes=processes)
        self.validation = task.batches(task.validation, device, training=False, processes=processes)
        self.plain_optimizer = make_optimizer(config, task.network)
        self.average = None if config.ema is None else Average(task.network, config.ema, device=device)
        self.teacher = load_teacher(config, task.dataset, device) if isinstance(task.dataset, Dataset) else None
        stepping = hooks.wrapped(self.plain_optimizer)
        self.schedule = make_schedule(config, self.plain_optimizer, len(self.batches))  # with what wrapping added
        self.prepared, self.optimizer = self.accelerator.prepare(task.network, stepping)
        self.model = _callable(config, self.prepared, task.example, device=device, processes=processes.count)
        self.projector = _projector(task, self.accelerator, processes, self.batches, epochs=self.last - self.first)
        self.state = TrainingState(
            task.network, self.plain_optimizer, self.projector, scaler=self.accelerator.scaler, average=self.average
        )
        self.spectra = Spectra(self.projector, folder.path, wanted=config.spectra and processes.main)
        self.augment = Augment(config, task.dataset.outputs, batch_size=config.images_at_once(processes.count))
        set_seed(config.seed + processes.rank)

    def resume(self, folder: RunFolder) -> Progress:
        """Go on from the folder's checkpoint, if it has one, with the learning rates of this many epochs."""
        progress = folder.checkpoints.load(self.state)
        if done := self.projector.steps + self.first * len(self.batches):
            self.schedule = make_schedule(self.config, self.plain_optimizer, len(self.batches), after=done)
        return progress if self.projector.steps else replace(progress, epoch=self.first)

    def run(self, progress: Progress, folder: RunFolder, console: Console) -> Trained:
        """Train the epochs that are left, and project once more."""
        while progress.epoch < self.last:
            begin, cpu_begin = time.perf_counter(), time.process_time()
            trained = self.epoch(progress, folder, console)
            elapsed = time.perf_counter() - begin
            rate = (len(self.batches) - progress.step) * self.task.counted_in_batch / elapsed
            progress = progress.advanced(elapsed, time.process_time() - cpu_begin)
            held_out = self.validated()
            folder.log_epoch(progress, self.projector, trained, held_out, lr=self.rate, rate=rate)
            console.epoch_done(progress, self.projector, trained, held_out, lr=self.rate, rate=rate)
            console.corrupt(self.log_corrupt(folder))
            if progress.epoch < self.last and self.preempted.due(0):
                self.stop(progress, folder)
            if progress.epoch % self.config.checkpoint_every == 0 or progress.epoch == self.last:
                folder.save_checkpoint(self.state, progress)
            if self.hooks.after_epoch is not None:
                self.hooks.after_epoch(progress.epoch, held_out)
        self.projector.project()
        self.spectra.record(self.projector.steps, "end")
        network = as_it_was(self.accelerator.unwrap_model(self.prepared, keep_fp32_wrapper=False))
        if self.average is not None:
            network = self.average.network(self.projector, self.processes)
        seconds = {"training": progress.seconds, "projecting": self.projector.seconds, "cpu": progress.cpu_seconds}
        seconds["recording"] = self.spectra.seconds
        return Trained(network.to("cpu"), self.projector.plan, self.accelerator.device, seconds)

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        return float(self.schedule.get_last_lr()[0])

    def epoch(self, progress: Progress, folder: RunFolder, console: Console) -> Score:
        """Train one epoch, or what is left of it.

        Raises ValueError if its loss is not finite, and PreemptedError if the training was told to stop.
        """
        epoch, done = progress.epoch, progress.step
        self.batches.set_epoch(epoch, done=done)
        self.prepared.train()
        running = Running(self.accelerator.device, progress.totals if self.processes.main else (0.0, 0.0, 0.0))
        batches = console.epoch(
            epoch,
            self.batches,
            running,
            self.projector,
            counted=self.task.counted_in_batch,
            lr=lambda: self.rate,
            done=done,
        )
        for step, (inputs, labels) in enumerate(batches, start=done + 1):
            rate = self.rate
            self.step(inputs, labels, running)
            self.spectra.record(self.projector.steps + 1, "free")
            if (report := self.projector.step()) is not None and self.task.plan.ranks:
                folder.log_projection(report, lr=rate)
                self.spectra.record(self.projector.steps, "projected")
            if self.average is not None:
                self.average.update(self.task.network)
            if step < len(self.batches) and self.preempted.due(step):
                self.stop(replace(progress, step=step, totals=running.totals(self.processes.total)), folder)
        trained = running.score(self.processes.total)
        if not math.isfinite(trained.loss):
            raise ValueError(
                f"the loss is {trained.loss} in epoch {epoch + 1}: training has diverged. "
                f"Lower lr, now {self.config.lr:g}, or limit gradients with clip_grad."
            )
        return trained

    def stop(self, progress: Progress, folder: RunFolder) -> NoReturn:
        """Write a checkpoint, and raise PreemptedError."""
        self.log_corrupt(folder)
        folder.save_checkpoint(self.state, progress)
        raise PreemptedError(
            f"told to stop ({self.preempted.told or 'another process was'}) after {progress.epoch} epochs and {progress.step} "
            f"steps: a checkpoint is written. Go on with: lrpet train --resume --output {folder.path}"
        )

    def log_corrupt(self, folder: RunFolder) -> dict[str, str]:
        """Log the corrupt images that all processes left out, and return the new ones."""
        if self.config.on_corrupt == "error" or not isinstance(self.task.dataset, Dataset):
            return {}
        return folder.log_corrupt(self.processes.union(self.task.dataset.corrupt))

    def step(self, inputs: Tensor, labels: Tensor, running: Running) -> None:
        """Take one optimizer step, with the gradients of all its parts, and add them to the score."""
        parts = self.config.accumulate
        for number, part in enumerate(in_parts([(inputs, labels)], parts), start=1):
            last = number == parts  # only then do processes send each other gradients
            with nullcontext() if last else self.accelerator.no_sync(self.prepared):
                self.backward(*part, running)
        if self.hooks.before_step is not None:
            self.hooks.before_step(self.projector, self.plain_optimizer)
        if self.config.clip_grad is not None:
            self.accelerator.clip_grad_norm_(self.prepared.parameters(), self.config.clip_grad)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.schedule.step()

    def backward(self, inputs: Tensor, labels: Tensor, running: Running) -> None:
        """Add the gradients of a part of a step to those that are there, and its score to `running`."""
        with self.accelerator.autocast():
            augmented, targets = self.augment(inputs, labels)
            logits = self.modality.logits(self.model, augmented)
            loss = self.augment.loss(logits, targets)
            if self.teacher is not None:
                loss = self.teacher.loss(loss, logits, augmented)
        self.accelerator.backward(loss / self.config.accumulate)
        running.add(loss, logits, labels)

    def validated(self) -> Score | None:
        """Score the network on what was held out, if anything was."""
        if not len(self.task.validation):
            return None
        self.processes.equalise(self.task.network.buffers())  # batch norms' statistics are those of its own images
        network = self.task.network
        if self.average is not None:
            network = self.average.network(self.projector, self.processes)
        total = self.processes.total if self.processes.count > 1 else None
        return score(
            network, self.validation, forward=self.modality.logits, autocast=self.accelerator.autocast(), total=total
        )


def _callable(
    config: Config, network: nn.Module, example: Tensor, *, device: torch.device, processes: int
) -> nn.Module:
    """Return what is called in place of the network in training."""
    if config.cuda_graphs:
        if device.type != "cuda" or processes > 1:
            where = f"{processes} processes train" if processes > 1 else f"the device is {device.type}"
            raise ValueError(f"cuda_graphs is for one process and a CUDA device, and {where}: leave it out")
        if not config.compile:
            layout = torch.channels_last if config.channels_last else torch.contiguous_format
            images = torch.zeros(config.batch_size, *example.shape[1:], device=device)
            return Replayed(network.train(), images.to(memory_format=layout))
    if not config.compile:
        return network
    torch.compiler.reset()  # what an earlier training in this process left is of weights that have changed their device
    return torch.compile(network, mode="reduce-overhead" if config.cuda_graphs else None)  # type: ignore[return-value]


def _projector(
    task: Task, accelerator: Accelerator, processes: Processes, batches: Batches, *, epochs: int
) -> lrpet.Projector:
    config = task.config
    return lrpet.Projector(
        task.network,
        plan_in_training(config, task.network, task, task.plan, accelerator, processes),
        total_steps=epochs * len(batches),
        start=config.start,
        every=config.projection_schedule(len(batches)),
        energy_transfer=task.modality.energy_transfer if config.energy_transfer is None else config.energy_transfer,
        rectify=config.rectify,
        tail_scale=config.tail_scale,
        descent=descent(config),
        solver=config.solver,
        calibration=_calibration(task, processes, batches),
    )


def _calibration(task: Task, processes: Processes, batches: Batches) -> list[Any] | None:
    """Return the training inputs that projections look at, this process's part of them, in batches."""
    count = -(-task.config.calibration // processes.count)
    if not count or not task.plan.ranks:
        return None
    inputs: list[Tensor] = []
    batches.set_epoch(0)
    for batch, _ in batches:
        inputs.append(batch[: count - sum(map(len, inputs))])
        if sum(map(len, inputs)) == count:
            break
    return [task.modality.arguments(each) for each in inputs]
