"""Optimizer and learning-rate schedule of a config."""

from __future__ import annotations

import warnings

import torch
from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]
from torch import nn
from torch.optim import lr_scheduler

from lrpet.train.config import Config


def make_optimizer(config: Config, model: nn.Module) -> torch.optim.Optimizer:
    """Make SGD, which decays every parameter as the paper's does, or AdamW or LAMB, which decay no biases and norms.

    These also leave out what the network itself names in `no_weight_decay`, such as position embeddings.
    """
    if config.optimizer != "sgd":
        return create_optimizer_v2(model, config.optimizer, lr=config.lr, weight_decay=config.weight_decay)
    return create_optimizer_v2(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        "sgd",
        lr=config.lr,
        momentum=config.momentum,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
    )


def make_schedule(
    config: Config, optimizer: torch.optim.Optimizer, steps_per_epoch: int, *, after: int = 0
) -> lr_scheduler.LRScheduler:
    """Make the schedule, which is to be stepped once after every optimizer step, as it is after so many steps.

    A resumed run makes it afresh, so that its rates are those of its `epochs`, even if these were fewer before. The
    schedules are torch's: timm has no one-cycle, and its warm-ups and cosines round to other rates.
    """
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] = config.lr
    schedule = _from_the_start(config, optimizer, steps_per_epoch)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that no optimizer step came before
        for _ in range(after):
            schedule.step()
    return schedule


def _from_the_start(config: Config, optimizer: torch.optim.Optimizer, steps_per_epoch: int) -> lr_scheduler.LRScheduler:
    total, warmup = config.epochs * steps_per_epoch, config.warmup_epochs * steps_per_epoch
    if config.schedule == "one-cycle":
        return lr_scheduler.OneCycleLR(optimizer, max_lr=config.lr, total_steps=total)
    main: lr_scheduler.LRScheduler
    if config.schedule == "cosine":
        main = lr_scheduler.CosineAnnealingLR(optimizer, T_max=total - warmup)
    else:
        milestones = [epoch * steps_per_epoch - warmup for epoch in config.milestones]
        main = lr_scheduler.MultiStepLR(optimizer, milestones=milestones, gamma=0.1)
    if not warmup:
        return main
    ramp = lr_scheduler.LinearLR(optimizer, start_factor=1 / warmup, total_iters=warmup)
    return lr_scheduler.SequentialLR(optimizer, [ramp, main], milestones=[warmup])
