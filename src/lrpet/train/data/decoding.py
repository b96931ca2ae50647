"""One encoded image at a time: read, decoded and transformed, or said to be corrupt."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from lrpet.train.data.dataset import FileImages
from lrpet.train.data.options import mixed

#: So many corrupt images one after the other are no accident.
ROW = 100


@dataclass(frozen=True)
class Read:
    """What became of reading an image."""

    image: Tensor | None
    """Uint8 of shape (C, H, W); None if there is none."""
    label: int
    corrupt: dict[str, str] = field(default_factory=dict)
    """{image: what its decoder said} of the images that were left out on the way to this one."""
    refused: str | None = None
    """Why training cannot go on."""


class Decoded(TorchDataset[Read]):
    """Reads, decodes and transforms images; in training, with random numbers of its own for each image and epoch.

    Images are numbered on beyond the last one, which gives the first again, augmented otherwise.

    With on_corrupt="skip", a corrupt image is left out of scoring. In training, where batches have one size, the next image
    that can be decoded stands in for it. A file that cannot be read is refused all the same: it says nothing about the image.
    """

    def __init__(
        self, images: FileImages, transform: Any, *, seed: int | None, on_corrupt: Literal["error", "skip"]
    ) -> None:
        self.images, self.transform, self.seed = images, transform, seed
        self.on_corrupt = on_corrupt
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Read:
        corrupt: dict[str, str] = {}
        for other in range(index, index + (1 if self.seed is None else ROW)):
            place = other % len(self.images)
            number = int(self.images.numbers[place])
            name = self.images.source.name(number)
            try:
                encoded = self.images.source.read(number)
            except OSError as error:
                return Read(None, 0, refused=f"{name} cannot be read: {error}")
            try:
                image = _decoded(encoded)
            except Exception as error:  # decoders raise anything
                said = str(error) or type(error).__name__
                if self.on_corrupt == "error":
                    return Read(None, 0, refused=f"{name} is no readable image: {said}. Or set on_corrupt to skip.")
                corrupt[name] = said
                continue
            with _drawing(None if self.seed is None else mixed(self.seed, self.epoch, index)):
                return Read(self.transform(image), int(self.images.labels[place]), corrupt)
        if self.seed is None:
            return Read(None, 0, corrupt)
        return Read(None, 0, refused=f"{ROW} images one after the other are corrupt, from {next(iter(corrupt))} on")


def _decoded(encoded: bytes) -> Any:
    from PIL import Image

    with Image.open(io.BytesIO(encoded)) as file:
        return file.convert("RGB")


@contextmanager
def _drawing(seed: int | None) -> Iterator[None]:
    """Draw from this seed inside the block, in torch on the CPU, numpy and Python; go on as before afterwards."""
    if seed is None:
        yield
        return
    before = random.getstate(), np.random.get_state()  # noqa: NPY002  # timm draws from it
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])  # noqa: NPY002


def collated(reads: list[Read]) -> tuple[Tensor | None, Tensor, dict[str, str], str | None]:
    """Put images together: uint8 (B, C, H, W) or None if there are none, labels (B,), corrupt images, and a refusal."""
    whole = [each for each in reads if each.image is not None]
    images = torch.stack([each.image for each in whole if each.image is not None]) if whole else None
    corrupt = {name: said for each in reads for name, said in each.corrupt.items()}
    refused = next((each.refused for each in reads if each.refused is not None), None)
    return images, torch.tensor([each.label for each in whole]), corrupt, refused
