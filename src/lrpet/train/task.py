"""What a run works on: a network, its plan, and the data in three parts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

import lrpet
from lrpet import models
from lrpet.layers import evaluating
from lrpet.train.config import Config
from lrpet.train.data.batches import batches
from lrpet.train.data.dataset import Dataset, Images, split
from lrpet.train.data.options import Batches, BatchOptions
from lrpet.train.data.sets import load
from lrpet.train.data.text import TextDataset, TokenBatches, Tokens, load_text
from lrpet.train.modality import TEXT, Modality, modality_of
from lrpet.train.plans import read_plan
from lrpet.train.processes import Processes
from lrpet.train.weights import load_trained


@dataclass(frozen=True)
class Task:
    """What a config stands for: a network, its plan, and the three parts of the data."""

    config: Config
    dataset: Dataset | TextDataset
    train: Images | Tokens
    validation: Images | Tokens
    network: nn.Module
    plan: lrpet.Plan
    example: Tensor
    """A batch of one image (1, C, H, W), or of one window of tokens (1, length)."""

    @classmethod
    def of(cls, config: Config) -> Task:
        """Load the data and make the network, from the config's seed.

        Raises FileNotFoundError if the data is not there, and ValueError if the config does not fit it or the network.
        """
        torch.manual_seed(config.seed)
        dataset, train_part, validation = _data(config)
        if len(train_part) < config.batch_size:
            raise ValueError(
                f"batch_size={config.batch_size} is more than the {len(train_part)} training "
                f"{modality_of(config.data).item}s of {config.data}"
            )
        arguments = config.model_args
        if isinstance(dataset, TextDataset) and not config.pretrained:
            arguments = {"bos_token_id": None, "eos_token_id": dataset.end, **arguments}
        network = models.create(
            config.model,
            num_classes=dataset.outputs,
            in_channels=dataset.in_channels,
            pretrained=config.pretrained,
            arguments=arguments,
        )
        if config.weights is not None:
            load_trained(config.weights, network)
        example = dataset.example()
        check_forward(config, network, example, classes=dataset.outputs)
        if config.train_size is not None:
            small = torch.zeros(1, dataset.in_channels, config.train_size, config.train_size)
            check_forward(config, network, small, classes=dataset.outputs)
        plan = make_plan(config, network, example)
        return cls(config, dataset, train_part, validation, network, plan, example)

    @property
    def modality(self) -> Modality:
        """How its batches meet its network."""
        return modality_of(self.config.data)

    @property
    def counted_in_batch(self) -> int:
        """How many images or tokens a training step takes, in all processes together."""
        length = self.dataset.train.length if isinstance(self.dataset, TextDataset) else 1
        return self.config.batch_size * length

    def batches(
        self, part: Images | Tokens, device: torch.device, *, training: bool, processes: Processes | None = None
    ) -> Batches:
        """Make batches of a part of the data; shuffled for training, images augmented too.

        Of each, this process gets its part where there are several `processes`. Raises ValueError if it has none.
        """
        config = self.config
        count = processes.count if processes else 1
        options = BatchOptions(
            config.batch_size if training else config.batch_size // config.accumulate,
            seed=config.seed,
            crop_padding=config.crop_padding,
            flip=config.flip,
            repeats=config.repeats,
            auto_augment=config.auto_augment,
            train_size=config.train_size,
            channels_last=config.channels_last,
            num_workers=config.num_workers,
            on_corrupt=config.on_corrupt,
            rank=processes.rank if processes else 0,
            processes=count,
        )
        return make_batches(part, self.dataset, options, device=device, train=training)


def _data(config: Config) -> tuple[Dataset | TextDataset, Images | Tokens, Images | Tokens]:
    """Load the data, and divide its training part into what is trained on and what is held out."""
    if modality_of(config.data) is TEXT:
        text = load_text(config.data, context=config.context, tokenizer=config.tokenizer)
        return text, *text.train.parts(config.holdout)
    dataset = load(config.data, config.data_dir, image_size=config.image_size)
    dataset = replace(dataset, test_crop=config.test_crop, interpolation=config.interpolation)
    return dataset, *split(dataset.train, holdout=config.holdout, seed=config.seed)


def make_batches(
    part: Images | Tokens, dataset: Dataset | TextDataset, options: BatchOptions, *, device: torch.device, train: bool
) -> Batches:
    """Make batches of a part of `dataset`. Raises ValueError for options that image files cannot have."""
    if isinstance(part, Tokens):
        return TokenBatches(part, options, device=device, train=train)
    assert isinstance(dataset, Dataset)
    return batches(part, dataset, options, device=device, train=train)


def check_forward(config: Config, network: nn.Module, example: Tensor, *, classes: int) -> None:
    """Raise ValueError if the network cannot take images or windows of the data, or does not tell its classes apart."""
    modality = modality_of(config.data)
    try:
        with evaluating(network), torch.no_grad():
            logits = modality.logits(network, example)
    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
        if modality is TEXT:
            raise ValueError(
                f"{config.model} cannot take windows of context={config.context} tokens out of {classes}: lower the context, "
                f"or let the model take more by model_args. The network says: {_said(error)}."
            ) from error
        _, channels, height, width = example.shape
        remedy = "give another image_size" if ":" in config.data else "choose another model"
        sizes = ", or the size by model_args, such as '{img_size: 32}'" if ":" in config.model else ""
        raise ValueError(
            f"{config.model} cannot take the images of {config.data}, {channels} channel{'s' * (channels > 1)} of "
            f"{height}×{width}: {remedy}{sizes}. The network says: {_said(error)}."
        ) from error
    if modality is TEXT and logits.shape[1] < classes:
        raise ValueError(
            f"{config.model} tells {logits.shape[1]} tokens apart, and {config.data} has {classes}: give a tokenizer of the "
            "model's own, or another vocab_size by model_args"
        )
    if modality is not TEXT and (not isinstance(logits, Tensor) or logits.shape != (1, classes)):
        got = tuple(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise ValueError(
            f"{config.model} gives {got} for an image of {config.data}, not (1, {classes}), a number for each class: "
            "check model_args"
        )


def _said(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__


def make_plan(config: Config, network: nn.Module, example: Tensor, **division: Any) -> lrpet.Plan:
    """Plan what the config's budget means for `network`, with its weights as they are.

    `division` is how the budget is divided where the config's `allocate` does not say it: `allocate`, and with
    "sensitivity" `batches` and `loss`, as `lrpet.plan` takes them.

    Raises FileNotFoundError or ValueError if the config's plan or budget does not fit the network.
    """
    inputs = modality_of(config.data).arguments(example)
    if config.method == "dense":
        return lrpet.plan(network, inputs, ranks={})
    if config.plan is not None:
        plan = read_plan(config.plan).settled()
        plan.bind(network)
        return plan
    # Only training has batches for "sensitivity": until then ranks are uniform.
    allocate = "uniform" if config.allocate == "sensitivity" else config.allocate
    return lrpet.plan(
        network,
        inputs,
        keep=config.keep,
        macs=config.macs,
        params=config.params,
        bytes=config.bytes,
        min_rank=config.min_rank,
        max_rank=config.max_rank,
        multiple_of=config.multiple_of,
        min_saving=config.min_saving,
        overrides=config.overrides,
        include=list(config.include) or None,
        exclude=list(config.exclude) or None,
        unfolding=config.unfolding,
        rectify=config.rectify,
        factorize_all=config.factorize_all,
        **{"allocate": allocate, **division},
    )
