"""Batches for training (shuffled, augmented, whole ones only) and for scoring (in order, as they are, all of them).

The order and the augmentation of an epoch depend on the seed and the epoch alone: a resumed run sees what an
uninterrupted one would have seen.
"""

from __future__ import annotations

import torch

from lrpet.train.data.dataset import Dataset, Images, MemoryImages
from lrpet.train.data.files import FileBatches
from lrpet.train.data.memory import MemoryBatches
from lrpet.train.data.options import Batches, BatchOptions


def batches(images: Images, dataset: Dataset, options: BatchOptions, *, device: torch.device, train: bool) -> Batches:
    """Make batches of `images`, a part of `dataset`, normalised with the mean and deviation of `dataset`.

    Raises ValueError for options that image files cannot have.
    """
    if isinstance(images, MemoryImages):
        return MemoryBatches(images, dataset, options, device=device, train=train)
    return FileBatches(images, dataset, options, device=device, train=train)
