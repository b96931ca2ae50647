"""Augmentation of whole batches, and the loss that goes with it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from helpers import images
from lrpet.train.config import make_config
from lrpet.train.data.augment import Augment


def test_binary_targets_are_all_classes_of_a_mixed_image() -> None:
    """Those that more than a fifth of it is of; the mean is over images and classes."""
    augment = Augment(make_config({"keep": 0.5, "loss": "bce"}), 3, batch_size=2)
    logits = images(2, 3)
    targets = torch.tensor([[0.7, 0.3, 0.0], [0.15, 0.0, 0.85]])
    right = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    chances = logits.sigmoid()
    expected = -(right * chances.log() + (1 - right) * (1 - chances).log()).mean()
    torch.testing.assert_close(augment.loss(logits, targets), expected)
    torch.testing.assert_close(
        augment.loss(logits, torch.tensor([1, 2])), augment.loss(logits, F.one_hot(torch.tensor([1, 2]), 3).float())
    )


@pytest.mark.parametrize("mixup", [0.0, 0.4])
def test_labels_are_smoothed_once(mixup: float) -> None:
    """The loss smooths labels that are numbers, and timm those of mixed images."""
    np.random.seed(0)  # noqa: NPY002
    augment = Augment(make_config({"keep": 0.5, "mixup": mixup, "label_smoothing": 0.3}), 5, batch_size=4)
    logits, labels = images(4, 5), torch.tensor([0, 1, 1, 4])
    mixed, targets = augment(images(4, 3, 6, 6), labels)
    shares = targets if mixup else 0.7 * F.one_hot(labels, 5) + 0.3 / 5
    assert (targets.ndim == 2) == bool(mixup)
    torch.testing.assert_close(shares.sum(1), torch.ones(4))
    torch.testing.assert_close(shares.min(), torch.tensor(0.3 / 5))
    torch.testing.assert_close(augment.loss(logits, targets), -(shares * logits.log_softmax(1)).sum(1).mean())
    assert mixed.shape == (4, 3, 6, 6)
