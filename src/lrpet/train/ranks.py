"""Ranks that move while training: they fall, or are allocated by the weights of the moment or what they do to the loss."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from accelerate import Accelerator
from torch import Tensor, nn

import lrpet
from lrpet.train.config import Config
from lrpet.train.data.augment import Augment
from lrpet.train.task import Task, chosen, make_plan

#: Batches of training images by which allocate=sensitivity judges; the same at every projection.
SENSITIVITY_BATCHES = 32


def descent(config: Config) -> lrpet.Descent | None:
    """What the config says of falling ranks, for `lrpet.Projector`; None if it says nothing."""
    if config.descent is None:
        return None
    return lrpet.Descent(end=config.descent, shape=config.descent_shape)


def plan_in_training(
    config: Config, network: nn.Module, task: Task, plan: lrpet.Plan, accelerator: Accelerator
) -> lrpet.Plan | Callable[[], lrpet.Plan]:
    """`plan`, or how to make the one that takes its place when there are trained weights to look at."""
    allocator = config.allocator
    if allocator == "uniform":
        return plan

    def make() -> lrpet.Plan:
        example = task.example.to(accelerator.device)
        if allocator != "sensitivity":
            return make_plan(config, network, example, allocate=allocator)
        return make_plan(config, network, example, allocate=_worths(config, network, task, accelerator))

    return make


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
    batches = task.batches(task.train, accelerator.device, training=True)
    return lrpet.sensitivity(network, whole, itertools.islice(batches, SENSITIVITY_BATCHES), loss)
