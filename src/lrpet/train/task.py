"""What a run works on: a network, its plan, and the data in three parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

import torch
from torch import Tensor, nn

import lrpet
from lrpet import models
from lrpet.train import data
from lrpet.train.batches import batches
from lrpet.train.config import Config


@dataclass(frozen=True)
class Task:
    """What a config stands for: a network, its plan, and the three parts of the data."""

    dataset: data.Dataset
    train: data.Images
    validation: data.Images
    network: nn.Module
    plan: lrpet.Plan
    example: Tensor

    @classmethod
    def of(cls, config: Config) -> Task:
        """Load the data and make the network, from the config's seed.

        Raises FileNotFoundError if the data is not there, and ValueError if the config does not fit it or the network.
        """
        torch.manual_seed(config.seed)
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
            arguments=config.model_args,
        )
        example = torch.zeros(1, dataset.in_channels, dataset.image_size, dataset.image_size)
        return cls(dataset, train_part, validation, network, make_plan(config, network, example), example)

    def batches(self, config: Config, images: data.Images, device: torch.device, *, training: bool) -> data.Batches:
        """Batches of `images`, a part of the data; shuffled and augmented for training."""
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
            repeats=config.repeats,
        )


def make_plan(
    config: Config,
    network: nn.Module,
    example: Tensor,
    *,
    allocate: Literal["uniform", "energy", "threshold"] = "uniform",
) -> lrpet.Plan:
    """What the config's budget means for `network` with its weights as they are."""
    if config.method == "dense":
        return lrpet.plan(network, example, ranks={})
    if config.plan is not None:
        if not config.plan.is_file():
            raise FileNotFoundError(f"there is no plan {config.plan}")
        plan = lrpet.Plan.from_json(config.plan.read_text(encoding="utf-8"))
        plan.modules(network)
        return plan
    return lrpet.plan(
        network,
        example,
        keep=config.keep,
        macs=config.macs,
        params=config.params,
        bytes=config.bytes,
        allocate=allocate,
        min_rank=config.min_rank,
        max_rank=config.max_rank,
        multiple_of=config.multiple_of,
        rectify=config.rectify,
        include=_chosen(config.layers) if config.layers else None,
        factorize_all=config.factorize_all,
    )


def _chosen(patterns: tuple[str, ...]) -> Callable[[nn.Module, str], bool]:
    return lambda module, name: any(fnmatchcase(name, pattern) for pattern in patterns)
