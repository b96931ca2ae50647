"""Ranks that move while training: they fall, or are divided again by what the weights do to the loss."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from accelerate import Accelerator
from torch import Tensor, nn

import lrpet
from lrpet.train.config import Config
from lrpet.train.data.augment import Augment
from lrpet.train.data.options import Batches, in_parts
from lrpet.train.processes import Processes
from lrpet.train.task import Task, make_plan

#: Batches of training images by which allocate=sensitivity judges; the same at every projection.
SENSITIVITY_BATCHES = 32


def descent(config: Config) -> lrpet.Descent | None:
    """Return what the config says about falling ranks, for `lrpet.Projector`; None if it says nothing."""
    if config.descent is None:
        return None
    return lrpet.Descent(end=config.descent, shape=config.descent_shape)


def plan_in_training(
    config: Config, network: nn.Module, task: Task, plan: lrpet.Plan, accelerator: Accelerator, processes: Processes
) -> lrpet.Plan:
    """Return `plan`, or with allocate=sensitivity one that also knows the batches and the loss that it is divided by."""
    if config.allocate != "sensitivity":
        return plan
    augment = Augment(config, task.dataset.outputs, batch_size=config.images_at_once(processes.count))

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        with accelerator.autocast():
            inputs, targets = augment(*batch)
            return augment.loss(task.modality.logits(model, inputs), targets)

    return make_plan(
        config,
        network,
        task.example.to(accelerator.device),
        allocate="sensitivity",
        batches=_FirstBatches(
            task.batches(task.train, accelerator.device, training=True, processes=processes), config.accumulate
        ),
        loss=loss,
    )


@dataclass(frozen=True)
class _FirstBatches:
    """The first few batches of an epoch, each in parts, which can be gone through again."""

    batches: Batches
    parts: int

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return in_parts(islice(iter(self.batches), SENSITIVITY_BATCHES), self.parts)
