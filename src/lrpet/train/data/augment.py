"""Augmentation of whole batches: mixup, cutmix and random erasing, by timm."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from lrpet.train.config import Config

#: The share of a mixed image above which a class is in it.
IN_IT = 0.2


class Augment:
    """Turns images (batch, channels, height, width) and labels (batch,) into what the loss takes.

    Raises ValueError if batches are to be mixed and `batch_size` is odd.
    """

    def __init__(self, config: Config, classes: int, *, batch_size: int) -> None:
        self.mixup = self.erasing = None
        if config.mixup or config.cutmix:
            from timm.data.mixup import Mixup

            if batch_size % 2:
                raise ValueError(
                    f"mixup and cutmix pair images: batch_size={config.batch_size} comes to {batch_size} at a time, "
                    "which is odd"
                )
            self.mixup = Mixup(  # type: ignore[no-untyped-call]
                mixup_alpha=config.mixup,
                cutmix_alpha=config.cutmix,
                label_smoothing=config.label_smoothing,
                num_classes=classes,
            )
        if config.random_erasing:
            from timm.data.random_erasing import RandomErasing

            self.erasing = RandomErasing(  # type: ignore[no-untyped-call]
                probability=config.random_erasing, mode="pixel", device="cpu"
            )
        self.smoothing = 0.0 if self.mixup is not None else config.label_smoothing
        self.bce = config.loss == "bce"

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return new images with their labels or, when mixed, with probabilities of classes; the arguments stay."""
        if self.mixup is not None:
            images, labels = self.mixup(images.clone(), labels)
        if self.erasing is not None:
            self.erasing.device = images.device
            images = self.erasing(images.clone())
        return images, labels

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Take the mean cross-entropy against what a call returned, smoothed as the config says; or that of every class.

        Binary targets are 1 for every class that has more than `IN_IT` of a mixed image, as in "ResNet strikes back".
        """
        if self.bce:
            shares = labels if labels.ndim == 2 else F.one_hot(labels, logits.shape[1])
            return F.binary_cross_entropy_with_logits(logits, (shares > IN_IT).to(logits.dtype))
        return F.cross_entropy(logits, labels, label_smoothing=self.smoothing)
