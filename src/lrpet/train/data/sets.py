"""Image sets by name, their split, and their batches.

Small sets live in memory on the training device, where whole batches are cropped, flipped and normalised at once, so that
the loop never waits for data. Folders of images are read by workers. Either way the order and the augmentation of an epoch
depend only on the seed and the epoch, so that a resumed run sees what an uninterrupted one would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from lrpet.train.data.formats import Arrays, find_cifar10, find_idx

NAMES = ("digits", "cifar10", "fashion-mnist", "folder:PATH")
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FASHION = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, eq=False)
class MemoryImages:
    """Images held as one uint8 tensor of shape (N, C, H, W)."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Tensor) -> MemoryImages:
        """The images at `indices`, in their order."""
        return MemoryImages(self.pixels[indices], self.labels[indices])


@dataclass(frozen=True, eq=False)
class FileImages:
    """Paths of image files, read when a batch needs them."""

    paths: tuple[str, ...]
    labels: Tensor
    image_size: int

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Tensor) -> FileImages:
        """The images at `indices`, in their order."""
        return FileImages(tuple(self.paths[i] for i in indices.tolist()), self.labels[indices], self.image_size)


Images = MemoryImages | FileImages


@dataclass(frozen=True, eq=False)
class Dataset:
    """A named set: its two published parts, and what a network needs to know of it."""

    name: str
    train: Images
    test: Images
    classes: tuple[str, ...]
    in_channels: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """Of the training pixels scaled to [0, 1], per channel."""
    crop_padding: int = 0
    flip: bool = False
    """The usual augmentation of this set."""

    @property
    def metadata(self) -> dict[str, Any]:
        """What belongs beside the weights of a network trained on this set."""
        sizes = {"in_channels": self.in_channels, "image_size": self.image_size}
        return {
            "data": self.name,
            "classes": list(self.classes),
            "mean": list(self.mean),
            "std": list(self.std),
            **sizes,
        }


def load(name: str, data_dir: Path | None = None, *, image_size: int | None = None) -> Dataset:
    """The set called `name`.

    Args:
        name: `digits` (8×8, from scikit-learn), `cifar10`, `fashion-mnist`, or `folder:PATH`, where PATH has a folder
            `train` and a folder `val` or `test`, each with a folder of images per class.
        data_dir: Where the files of cifar10 or fashion-mnist are, or are downloaded to; `data` if not given.
        image_size: Side in pixels, for folders (224 if not given).

    Raises:
        FileNotFoundError: the files are not there and cannot be downloaded; the message says what to put where.
        ValueError: an unknown name, or a file that is damaged.
    """
    if name.startswith("folder:"):
        return _folder(Path(name.removeprefix("folder:")), image_size or 224)
    if image_size is not None:
        raise ValueError(f"image_size goes with folder:PATH; {name} has its own")
    if name == "digits":
        return _digits()
    where = data_dir or Path("data")
    if name == "cifar10":
        found = find_cifar10(where) or _downloaded(
            "CIFAR10", where, find_cifar10, "cifar-10-batches-bin/ or cifar-10-batches-py/"
        )
        return _in_memory(name, *found, CIFAR10, crop_padding=4, flip=True)
    if name == "fashion-mnist":
        return _in_memory(name, *_fashion_mnist(where), FASHION, crop_padding=2, flip=True)
    raise ValueError(f"there is no data set {name!r}; there are {', '.join(NAMES)}")


def split(images: Images, *, holdout: float, seed: int) -> tuple[Images, Images]:
    """Training and validation part: `holdout` of each class goes to the latter, chosen by `seed`. Both keep the order.

    Raises ValueError if `holdout` is not in [0, 1).
    """
    if not 0 <= holdout < 1:
        raise ValueError(f"holdout={holdout} must be at least 0 and below 1")
    held = torch.zeros(len(images), dtype=torch.bool)
    generator = torch.Generator().manual_seed(seed)
    for label in range(int(images.labels.max()) + 1):
        members = (images.labels == label).nonzero()[:, 0]
        order = torch.randperm(len(members), generator=generator)
        held[members[order[: round(holdout * len(members))]]] = True
    return images.subset((~held).nonzero()[:, 0]), images.subset(held.nonzero()[:, 0])


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


def _downloaded(kind: str, where: Path, find: Any, wanted: str) -> tuple[Arrays, Arrays]:
    """Download through torchvision, which checks what it gets, and read."""
    import torchvision

    try:
        getattr(torchvision.datasets, kind)(str(where), download=True)
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(
            f"{kind} is not in {where}, and downloading it failed ({error}): put {wanted} there"
        ) from None
    found: tuple[Arrays, Arrays] | None = find(where)
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
                f"{path} needs a folder train and a folder val or test, with a folder of images per class"
            )
    try:
        train, test = ImageFolder(str(path / "train")), ImageFolder(str(path / test_name))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: {error}") from None
    if train.classes != test.classes:
        odd = sorted(set(train.classes) ^ set(test.classes))
        raise ValueError(f"{path}: train and {test_name} do not have the same classes: {', '.join(odd)}")

    def images(part: Any) -> FileImages:
        paths, labels = zip(*part.samples, strict=True)
        return FileImages(tuple(paths), torch.tensor(labels), image_size)

    whole = Dataset(
        name=f"folder:{path}",
        train=images(train),
        test=images(test),
        classes=tuple(train.classes),
        in_channels=3,
        image_size=image_size,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )
    return replace(whole, flip=True)


class Batches(Protocol):
    """The batches of one epoch: (float32 images (B, C, H, W), int64 labels (B,)) on the training device."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]: ...

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order and augmentation the next iteration has."""
        ...
