"""Optimizer and learning-rate schedule of a config."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim import lr_scheduler

from lrpet.train.config import Config


def make_optimizer(config: Config, model: nn.Module) -> torch.optim.Optimizer:
    """SGD or AdamW over every trainable parameter."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay)
    return torch.optim.SGD(
        parameters,
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        nesterov=config.nesterov,
    )


def make_schedule(config: Config, optimizer: torch.optim.Optimizer, steps_per_epoch: int) -> lr_scheduler.LRScheduler:
    """The schedule, to be stepped once after every optimizer step."""
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
