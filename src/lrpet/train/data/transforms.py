"""What becomes of a decoded image file: timm's crops, flips and automatic augmentation."""

from __future__ import annotations

from typing import Any

from lrpet.train.data.dataset import Dataset
from lrpet.train.data.options import BatchOptions


def transform(dataset: Dataset, options: BatchOptions, *, train: bool) -> Any:
    """Return what makes a uint8 tensor of an image: a random crop of random size, or in scoring the middle.

    Raises ValueError if timm does not understand `options.auto_augment`.
    """
    from timm.data.transforms_factory import create_transform

    common: dict[str, Any] = {"interpolation": dataset.interpolation, "color_jitter": None, "normalize": False}
    if not train:
        return create_transform(dataset.image_size, crop_pct=dataset.test_crop, **common)
    flip = dataset.flip if options.flip is None else options.flip
    try:
        return create_transform(
            options.train_size or dataset.image_size,
            is_training=True,
            hflip=0.5 * flip,
            auto_augment=options.auto_augment,
            mean=dataset.mean,  # the colour of what an augmentation uncovers
            **common,
        )
    except (AssertionError, ValueError, KeyError) as error:
        if options.auto_augment is None:
            raise
        raise ValueError(
            f"auto_augment={options.auto_augment!r} is not as timm writes it, such as rand-m7-mstd0.5-inc1, augmix-m3-w3, "
            f"original or v0: {str(error) or type(error).__name__}"
        ) from None
