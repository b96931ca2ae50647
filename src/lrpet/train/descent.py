"""Ranks that move while training: they fall, or are allocated by the weights of the moment or what they do to the loss."""

from __future__ import annotations

import itertools

from accelerate import Accelerator
from torch import Tensor, nn

import lrpet
from lrpet.train.augment import Augment
from lrpet.train.config import Config
from lrpet.train.task import Task, chosen, make_plan

#: Batches of training images by which allocate=sensitivity judges; the same at every projection.
SENSITIVITY_BATCHES = 32


def descent(
    config: Config, network: nn.Module, task: Task, steps_per_epoch: int, accelerator: Accelerator
) -> lrpet.Descent | None:
    """What the config says of moving ranks, for `lrpet.Projector`; None if it says nothing.

    Allocated without falling, they are the plan's from the first projection on.
    """
    if config.descent is None and config.allocate == "uniform":
        return None
    total, start = config.epochs * steps_per_epoch, config.projection_start(steps_per_epoch)

    def replan() -> lrpet.Plan:
        example = task.example.to(accelerator.device)
        if config.allocate != "sensitivity":
            return make_plan(config, network, example, allocate=config.allocate)
        return make_plan(config, network, example, allocate=_worths(config, network, task, accelerator))

    return lrpet.Descent(
        total,
        end=max(1, start) / total if config.descent is None else config.descent,
        shape=config.descent_shape,
        replan=None if config.allocate == "uniform" else replan,
    )


def _worths(config: Config, network: nn.Module, task: Task, accelerator: Accelerator) -> dict[str, list[float]]:
    augment = Augment(config, len(task.dataset.classes))

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        with accelerator.autocast():
            images, targets = augment(*batch)
            return augment.loss(model(images), targets)

    whole = lrpet.plan(
        network,
        task.example.to(accelerator.device),
        keep=1.0,
        rectify=config.rectify,
        include=chosen(config),
        factorize_all=True,
    )
    batches = task.batches(config, task.train, accelerator.device, training=True)
    return lrpet.sensitivity(network, whole, itertools.islice(batches, SENSITIVITY_BATCHES), loss)
