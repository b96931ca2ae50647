"""Sets of image files: a folder for each class, WebDataset shards, and what the library `datasets` reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lrpet.train.data.dataset import Dataset, FileImages
from lrpet.train.data.hub import read_parts
from lrpet.train.data.shards import find_shards, read_shards
from lrpet.train.data.sources import Paths, Source

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: What the part that is scored may be called, in the names of shards.
SCORED = ("test", "val", "validation")


def folder_set(place: str, image_size: int, download: bool) -> Dataset:
    """Load a folder that has a folder train and a folder val or test, each with a folder of images for every class."""
    from torchvision.datasets import ImageFolder

    path = Path(place)
    test_name = "test" if (path / "test").is_dir() else "val"
    for part in ("train", test_name):
        if not (path / part).is_dir():
            raise FileNotFoundError(
                f"{path} needs a folder train and a folder val or test, each with a folder of images for every class"
            )
    try:
        train, test = ImageFolder(str(path / "train")), ImageFolder(str(path / test_name))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: {error}") from None
    if train.classes != test.classes:
        odd = sorted(set(train.classes) ^ set(test.classes))
        raise ValueError(f"{path}: the classes of train and {test_name} differ: only one of them has {', '.join(odd)}")

    def images(part: Any) -> tuple[Paths, Tensor]:
        paths, labels = zip(*part.samples, strict=True)
        return Paths(tuple(paths)), torch.tensor(labels)

    return _set(f"folder:{path}", images(train), images(test), tuple(train.classes), image_size)


def shards_set(place: str, image_size: int, download: bool) -> Dataset:
    """Load a folder of WebDataset shards: `PART/*.tar` or `*PART*.tar`, for train and for test, val or validation.

    Classes have the names that a file classes.txt in it lists, one a line, else their numbers.
    """
    path = Path(place)
    train = find_shards(path, "train")
    test_name, test = next(
        ((part, found) for part in SCORED if (found := find_shards(path, part))), (" or ".join(SCORED), ())
    )
    if not train or not test:
        raise FileNotFoundError(
            f"{path} has no shards of {test_name if train else 'train'}: it needs PART/*.tar or *PART*.tar, "
            f"where PART is train, and {' or '.join(SCORED)}"
        )
    both = {"train": train, test_name: test}
    parts = [read_shards(shards, index=path / f"lrpet-{part}.index", keep=download) for part, shards in both.items()]
    count = 1 + max(int(part.labels.max()) for part in parts)
    names = path / "classes.txt"
    classes = _listed(names) if names.is_file() else tuple(map(str, range(count)))
    if len(classes) < count:
        raise ValueError(f"{names} lists {len(classes)} classes, but the shards have class {count - 1}, counted from 0")
    first, second = ((part, part.labels) for part in parts)
    return _set(f"webdataset:{path}", first, second, classes, image_size)


def _listed(names: Path) -> tuple[str, ...]:
    try:
        return tuple(names.read_text(encoding="utf-8").splitlines())
    except UnicodeDecodeError as error:
        raise ValueError(f"{names} is no list of classes, one a line in UTF-8: {error}") from None


def hub_set(place: str, image_size: int, download: bool) -> Dataset:
    """Load a data set of the library `datasets`, by its name or folder."""
    parts, classes = read_parts(place, download=download)
    return _set(f"hf:{place}", parts["train"], parts["test"], classes, image_size)


def _set(
    name: str, train: tuple[Source, Tensor], test: tuple[Source, Tensor], classes: tuple[str, ...], image_size: int
) -> Dataset:
    def images(source: Source, labels: Tensor) -> FileImages:
        return FileImages(source, torch.arange(len(labels)), labels)

    return Dataset(
        name=name,
        train=images(*train),
        test=images(*test),
        classes=classes,
        in_channels=3,
        image_size=image_size,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        flip=True,
    )


#: {what stands before the colon of a set's name: what loads it from what stands after it}.
FILES: dict[str, Callable[[str, int, bool], Dataset]] = {"folder": folder_set, "webdataset": shards_set, "hf": hub_set}
