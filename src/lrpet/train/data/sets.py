"""Image sets by name: small ones that lie in memory whole, and those of image files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from lrpet.train.data.dataset import Dataset, MemoryImages, split
from lrpet.train.data.file_sets import FILES
from lrpet.train.data.formats import Arrays, find_cifar10, find_idx

NAMES = ("digits", "cifar10", "fashion-mnist", "folder:PATH", "webdataset:PATH", "hf:NAME")
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FASHION = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")


def load(name: str, data_dir: Path | None = None, *, image_size: int | None = None, download: bool = True) -> Dataset:
    """Load the set called `name`.

    Args:
        name: `digits` (8×8, from scikit-learn), `cifar10`, `fashion-mnist`, or `folder:PATH`, `webdataset:PATH`, `hf:NAME`,
            as `lrpet.train.data.file_sets` describes them.
        data_dir: Where the files of cifar10 or fashion-mnist are, or are downloaded to; `data` if None.
        image_size: Side in pixels of the images, for image files; 224 if None.
        download: Whether a set that is not there is downloaded, and an index of shards written. Without it, nothing is written.

    Raises:
        FileNotFoundError: the files are not there and cannot be downloaded; the message says what to put where.
        ImportError: a library that reads the set is not installed.
        ValueError: the name is unknown, or a file is damaged.
    """
    kind, colon, place = name.partition(":")
    if colon and kind in FILES:
        return FILES[kind](place, image_size or 224, download)
    if image_size is not None:
        raise ValueError(f"image_size={image_size} is for image files: leave it out, {name} has a size of its own")
    if name == "digits":
        return _digits()
    where = data_dir or Path("data")
    if name == "cifar10":
        wanted = "cifar-10-batches-bin/ or cifar-10-batches-py/"
        found = find_cifar10(where) or _downloaded("CIFAR10", where, find_cifar10, wanted, download=download)
        return _in_memory(name, *found, CIFAR10, crop_padding=4, flip=True)
    if name == "fashion-mnist":
        return _in_memory(name, *_fashion_mnist(where, download=download), FASHION, crop_padding=2, flip=True)
    raise ValueError(f"there is no data set {name!r}; there are {', '.join(NAMES)}")


def _digits() -> Dataset:
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = torch.from_numpy(digits.images / 16 * 255).round().to(torch.uint8)[:, None]
    images = MemoryImages(pixels, torch.from_numpy(digits.target).long())
    train, test = split(images, holdout=0.2, seed=0)  # the set has no published split; this one never changes
    assert isinstance(train, MemoryImages) and isinstance(test, MemoryImages)  # noqa: PT018
    arrays = (train.pixels, train.labels), (test.pixels, test.labels)
    return _in_memory("digits", *arrays, tuple(str(i) for i in range(10)), crop_padding=1)


def _fashion_mnist(where: Path, *, download: bool) -> tuple[Arrays, Arrays]:
    for place in (where, where / "FashionMNIST" / "raw", DEBIAN_FASHION_MNIST):
        if (found := find_idx(place)) is not None:
            return found
    wanted = "train-images-idx3-ubyte.gz and the three files that go with it"
    return _downloaded("FashionMNIST", where, _find_raw, wanted, download=download)


def _find_raw(root: Path) -> tuple[Arrays, Arrays] | None:
    return find_idx(root / "FashionMNIST" / "raw")


def _downloaded(
    kind: str, where: Path, find: Callable[[Path], tuple[Arrays, Arrays] | None], wanted: str, *, download: bool
) -> tuple[Arrays, Arrays]:
    """Download through torchvision, which checks what it gets, and read."""
    if not download:
        raise FileNotFoundError(f"{kind} is not in {where}: name its folder by data_dir, or set download to fetch it")
    import torchvision

    try:
        getattr(torchvision.datasets, kind)(str(where), download=True)
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(
            f"{kind} is not in {where}, and downloading it failed ({error}): put {wanted} there"
        ) from None
    found = find(where)
    if found is None:
        raise FileNotFoundError(f"{kind} was downloaded to {where}, but {wanted} is not there")
    return found


def _in_memory(
    name: str, train: Arrays, test: Arrays, classes: tuple[str, ...], *, crop_padding: int, flip: bool = False
) -> Dataset:
    values = torch.stack(
        [torch.bincount(channel.flatten().int(), minlength=256) for channel in train[0].unbind(1)]
    ).double()
    levels, count = torch.arange(256).double() / 255, train[0][:, 0].numel()
    mean = values @ levels / count
    std = (values @ levels.square() / count - mean.square()).sqrt()
    return Dataset(
        name=name,
        train=MemoryImages(*train),
        test=MemoryImages(*test),
        classes=classes,
        in_channels=train[0].shape[1],
        image_size=train[0].shape[-1],
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        crop_padding=crop_padding,
        flip=flip,
    )
