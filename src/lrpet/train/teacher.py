"""Distillation: a trained network whose outputs the network learns from, beside the labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import lrpet
from lrpet import models
from lrpet.train.config import Config
from lrpet.train.data.dataset import Dataset
from lrpet.train.data.file_sets import IMAGENET_MEAN, IMAGENET_STD
from lrpet.train.data.metadata import trained_on

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of pixels, scaled to [0, 1], in each channel."""


class Teacher(nn.Module):
    """A trained network in eval mode that no gradient reaches. It sees images normalised as it was trained on.

    Args:
        network: The trained network.
        given: Mean and standard deviation by which the images are normalised that it gets, a number for each channel.
        wanted: Those of the images that it was trained on.
        share: The part of the loss that is against what it says.
        temperature: T, by which both networks' outputs are divided.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self, network: nn.Module, *, given: Normalisation, wanted: Normalisation, share: float, temperature: float
    ) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.share, self.temperature = share, temperature
        mean, std, own_mean, own_std = (torch.tensor(values).view(-1, 1, 1) for values in (*given, *wanted))
        self.register_buffer("scale", std / own_std)
        self.register_buffer("shift", (mean - own_mean) / own_std)

    def loss(self, loss: Tensor, logits: Tensor, images: Tensor) -> Tensor:
        """Mix the loss against the labels with T²·KL(teacher ‖ network).

        `logits` (B, classes) are the network's for `images` (B, C, H, W), as these were augmented. T² keeps the gradients of
        one size whatever the temperature.
        """
        with torch.no_grad():
            target = self.network(images * self.scale + self.shift).float() / self.temperature
        apart = F.kl_div(
            (logits.float() / self.temperature).log_softmax(1),
            target.log_softmax(1),
            reduction="batchmean",
            log_target=True,
        )
        return (1 - self.share) * loss + self.share * self.temperature**2 * apart


def load_teacher(config: Config, dataset: Dataset, device: torch.device) -> Teacher | None:
    """Load the teacher that the config names: the network in the folder of a run or of `lrpet.save`, or a library's own.

    Returns None if it names none.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it cannot take images of the data at their size in training, or tells other classes apart.
    """
    if config.teacher is None:
        return None
    name, size = config.teacher, config.train_size or dataset.image_size
    network, wanted = _trained(name, dataset)
    example = torch.zeros(1, dataset.in_channels, size, size)
    try:
        with torch.no_grad():
            logits = network.eval()(example)
    except (RuntimeError, ValueError, AssertionError) as error:
        said = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"teacher={name} cannot take the images {tuple(example.shape[1:])} of the data: {said}"
        ) from error
    if not isinstance(logits, Tensor) or logits.shape != (1, len(dataset.classes)):
        raise ValueError(f"teacher={name} does not tell the {len(dataset.classes)} classes of the data apart")
    given = (dataset.mean, dataset.std)
    if config.channels_last:
        network.to(memory_format=torch.channels_last)
    teacher = Teacher(network, given=given, wanted=wanted, share=config.distill, temperature=config.temperature)
    return teacher.to(device)


def _trained(name: str, dataset: Dataset) -> tuple[nn.Module, Normalisation]:
    """Return a trained network, and what its images are normalised by."""
    if name.startswith(("timm:", "torchvision:")):
        network = models.create(name, num_classes=1000, in_channels=dataset.in_channels, pretrained=True)
        about: dict[str, Any] = getattr(network, "pretrained_cfg", {})
        if about.get("num_classes", 1000) != 1000:
            raise ValueError(
                f"teacher={name} was trained on {about['num_classes']} classes: its classifier is not kept"
            )
        return network, (tuple(about.get("mean", IMAGENET_MEAN)), tuple(about.get("std", IMAGENET_STD)))
    if not Path(name).is_dir():
        raise FileNotFoundError(f"teacher={name} is no folder of a run, nor timm:NAME or torchvision:NAME")
    saved = Path(name) / "compact" if (Path(name) / "compact").is_dir() else Path(name)
    metadata = trained_on(saved, "classes", "mean", "std")
    if metadata.get("classes", list(dataset.classes)) != list(dataset.classes):
        raise ValueError(
            f"teacher={name} was trained on the classes {metadata['classes']}, not {list(dataset.classes)}"
        )
    mean, std = (tuple(metadata.get(key, getattr(dataset, key))) for key in ("mean", "std"))
    return lrpet.load(name), (mean, std)
