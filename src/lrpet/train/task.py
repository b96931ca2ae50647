"""What a run works on: a network, its plan, and the data in three parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

import lrpet
from lrpet import models
from lrpet.compact.files import load_weights
from lrpet.planning.allocators import Allocator
from lrpet.train.config import Config
from lrpet.train.data import sets as data
from lrpet.train.data.batches import batches


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
        if config.start is not None:
            load_start(config.start, network)
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
    allocate: Allocator | Mapping[str, Sequence[float]] | Mapping[str, float] = "uniform",
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
        overrides=config.overrides,
        rectify=config.rectify,
        include=chosen(config),
        factorize_all=config.factorize_all,
    )


def load_start(start: Path, network: nn.Module) -> None:
    """Load trained weights into a full-size network: from a safetensors file, a folder of `lrpet.save`, or a dense run's.

    Raises FileNotFoundError if there are none, and ValueError if they are another network's.
    """
    tried = [start, start / "model.safetensors", start / "compact" / "model.safetensors"]
    file = next((path for path in tried if path.is_file()), None)
    if file is None:
        raise FileNotFoundError(f"start={start}: no file, nor a folder with model.safetensors in it")
    try:
        load_weights(network, file)
    except (RuntimeError, SafetensorError) as error:
        raise ValueError(f"start={file} does not hold the weights of this network: {error}") from None


def chosen(config: Config) -> Callable[[nn.Module, str], bool] | None:
    """The layers that may be factorised, as `lrpet.plan` takes them."""
    if not config.layers:
        return None
    return lambda module, name: any(fnmatchcase(name, pattern) for pattern in config.layers)
