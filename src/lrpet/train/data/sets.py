"""Image sets by name: small ones that lie in memory whole, and folders of image files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lrpet.train.data.dataset import Dataset, FileImages, MemoryImages, split
from lrpet.train.data.formats import Arrays, find_cifar10, find_idx
from lrpet.train.data.sources import Paths

NAMES = ("digits", "cifar10", "fashion-mnist", "folder:PATH")
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FASHION = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def load(name: str, data_dir: Path | None = None, *, image_size: int | None = None) -> Dataset:
    """Load the set called `name`.

    Args:
        name: `digits` (8×8, from scikit-learn), `cifar10`, `fashion-mnist`, or `folder:PATH`. PATH has a folder `train`
            and a folder `val` or `test`, each with a folder of images for every class.
        data_dir: Where the files of cifar10 or fashion-mnist are, or are downloaded to; `data` if None.
        image_size: Side in pixels of the images of a folder; 224 if None.

    Raises:
        FileNotFoundError: the files are not there and cannot be downloaded; the message says what to put where.
        ValueError: the name is unknown, or a file is damaged.
    """
    if name.startswith("folder:"):
        return _folder(Path(name.removeprefix("folder:")), image_size or 224)
    if image_size is not None:
        raise ValueError(f"image_size={image_size} is for folder:PATH: leave it out, {name} has a size of its own")
    if name == "digits":
        return _digits()
    where = data_dir or Path("data")
    if name == "cifar10":
        wanted = "cifar-10-batches-bin/ or cifar-10-batches-py/"
        found = find_cifar10(where) or _downloaded("CIFAR10", where, find_cifar10, wanted)
        return _in_memory(name, *found, CIFAR10, crop_padding=4, flip=True)
    if name == "fashion-mnist":
        return _in_memory(name, *_fashion_mnist(where), FASHION, crop_padding=2, flip=True)
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


def _fashion_mnist(where: Path) -> tuple[Arrays, Arrays]:
    for place in (where, where / "FashionMNIST" / "raw", DEBIAN_FASHION_MNIST):
        if (found := find_idx(place)) is not None:
            return found
    wanted = "train-images-idx3-ubyte.gz and the three files that go with it"
    return _downloaded("FashionMNIST", where, lambda root: find_idx(root / "FashionMNIST" / "raw"), wanted)


def _downloaded(
    kind: str, where: Path, find: Callable[[Path], tuple[Arrays, Arrays] | None], wanted: str
) -> tuple[Arrays, Arrays]:
    """Download through torchvision, which checks what it gets, and read."""
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


def _folder(path: Path, image_size: int) -> Dataset:
    from torchvision.datasets import ImageFolder

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

    def images(part: Any) -> FileImages:
        paths, labels = zip(*part.samples, strict=True)
        return FileImages(Paths(tuple(paths)), torch.arange(len(paths)), torch.tensor(labels))

    return Dataset(
        name=f"folder:{path}",
        train=images(train),
        test=images(test),
        classes=tuple(train.classes),
        in_channels=3,
        image_size=image_size,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        flip=True,
    )
