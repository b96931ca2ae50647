"""The published file formats of small image sets, read as uint8 tensors and checked."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lrpet.train.data.pickled import read_pickled

Arrays = tuple[Tensor, Tensor]
"""Images (N, C, H, W) as uint8 and labels (N,) as int64."""

RECORD = 1 + 3 * 32 * 32
BATCHES = [f"data_batch_{i}" for i in range(1, 6)]
#: Images in each file of CIFAR-10, 32×32 in three colours.
PER_FILE = 10_000
#: Files beyond this size are no batch of CIFAR-10, and are not read.
LARGEST = 64 * 2**20


def find_cifar10(folder: Path) -> tuple[Arrays, Arrays] | None:
    """Read the training and test part of CIFAR-10 in its binary or python layout; None if it is not there.

    The files may be in `folder`, or in the folder of their layout below `folder`. Raises ValueError naming the file if one
    is missing from a layout, damaged, or of another kind.
    """
    for layout, suffix, read in (("bin", ".bin", read_cifar_binary), ("py", "", read_cifar_pickle)):
        for place in (folder / f"cifar-10-batches-{layout}", folder):
            if (place / f"test_batch{suffix}").is_file() or (place / f"{BATCHES[0]}{suffix}").is_file():
                parts = [read(place / f"{name}{suffix}") for name in BATCHES]
                train = torch.cat([images for images, _ in parts]), torch.cat([labels for _, labels in parts])
                return train, read(place / f"test_batch{suffix}")
    return None


def read_cifar_binary(path: Path) -> Arrays:
    """Read records of 3073 bytes: a label, then 32×32 red, green and blue values."""
    data = _bytes(path)
    if not data or len(data) % RECORD:
        raise ValueError(
            f"{path} has {len(data):,} bytes, which is not a whole number of records of {RECORD} bytes: fetch it again"
        )
    records = torch.frombuffer(bytearray(data), dtype=torch.uint8).view(-1, RECORD)
    return _counted(path, records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].long())


def read_cifar_pickle(path: Path) -> Arrays:
    """Read a pickled dictionary with data (N, 3072) and labels. Nothing that the pickle names is made or called."""
    try:
        values = read_pickled(_bytes(path))
        images = values[b"data"].read()
        labels = np.asarray([int(label) for label in values[b"labels"] if type(label) is int])
        whole = len(labels) == len(values[b"labels"])
    except Exception as error:  # a damaged pickle can raise anything
        raise ValueError(f"{path} is no batch of CIFAR-10 in the python layout: {error}. Fetch it again.") from None
    if images.ndim != 2 or images.shape[1] != RECORD - 1 or labels.shape != images.shape[:1] or not whole:
        raise ValueError(
            f"{path} holds images of shape {images.shape} and {len(labels)} whole labels, "
            f"not (N, {RECORD - 1}) and N: fetch it again"
        )
    return _counted(
        path, torch.from_numpy(images.copy()).view(-1, 3, 32, 32), torch.from_numpy(labels.astype(np.int64))
    )


def find_idx(folder: Path) -> tuple[Arrays, Arrays] | None:
    """Read the training and test part of a set in the MNIST format, gzipped or not; None if it is not in `folder`.

    Raises ValueError naming the file if one is missing, damaged, or of another kind.
    """
    names = [f"{part}-{what}" for part in ("train", "t10k") for what in ("images-idx3-ubyte", "labels-idx1-ubyte")]
    found = [path for name in names for path in (folder / name, folder / f"{name}.gz") if path.is_file()]
    if not found:
        return None
    if len({path.name.removesuffix(".gz") for path in found}) < len(names):
        raise ValueError(f"{folder} has {', '.join(path.name for path in found)}, but needs each of {', '.join(names)}")
    by_name = {path.name.removesuffix(".gz"): path for path in found}
    parts = []
    for images_name, labels_name in (names[:2], names[2:]):
        images, labels = read_idx(by_name[images_name]), read_idx(by_name[labels_name])
        if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
            raise ValueError(
                f"{by_name[images_name]} and {labels_name} do not belong together: {images.shape}, {labels.shape}"
            )
        if images.shape[1] != images.shape[2]:
            raise ValueError(
                f"{by_name[images_name]} has images of {images.shape[1]}×{images.shape[2]}, not square ones"
            )
        parts.append(_checked(by_name[labels_name], images[:, None], labels.long()))
    return parts[0], parts[1]


def read_idx(path: Path) -> Tensor:
    """Read an idx file of bytes: magic number, sizes, values."""
    data = _bytes(path)
    if path.suffix == ".gz":
        try:
            with gzip.open(path) as file:
                data = file.read(LARGEST + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path} is damaged: {error}. Fetch it again.") from None
        if len(data) > LARGEST:
            raise ValueError(f"{path} holds more than {LARGEST:,} bytes, more than any file of its set: fetch it again")
    if len(data) < 4 or data[:3] != b"\x00\x00\x08" or len(data) < 4 + 4 * data[3]:
        raise ValueError(f"{path} is no idx file of bytes: it starts with {data[:4].hex(' ')}")
    header = 4 + 4 * data[3]
    shape = struct.unpack(f">{data[3]}I", data[4:header])
    count = math.prod(shape)
    if not count or len(data) - header != count:
        raise ValueError(f"{path} should hold {count:,} values and holds {len(data) - header:,}: fetch it again")
    return torch.frombuffer(bytearray(data), dtype=torch.uint8, offset=header).view(shape)


def _bytes(path: Path) -> bytes:
    if not path.is_file():
        raise ValueError(f"{path} is missing beside the other files of its set")
    if (size := path.stat().st_size) > LARGEST:
        raise ValueError(f"{path} has {size:,} bytes, more than any file of its set: fetch it again")
    return path.read_bytes()


def _counted(path: Path, images: Tensor, labels: Tensor) -> Arrays:
    if len(labels) != PER_FILE:
        raise ValueError(f"{path} holds {len(labels):,} images, not {PER_FILE:,}: it is not whole, fetch it again")
    return _checked(path, images, labels)


def _checked(path: Path, images: Tensor, labels: Tensor) -> Arrays:
    if len(labels) == 0:
        raise ValueError(f"{path} has no images: fetch it again")
    if int(labels.min()) < 0 or int(labels.max()) > 9:
        raise ValueError(
            f"{path} has labels from {int(labels.min())} to {int(labels.max())}, not 0 to 9: it is damaged, or another set"
        )
    return images.contiguous(), labels
