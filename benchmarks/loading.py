"""Images per second that reach the training loop, against a plain loop of torchvision.

    python -m benchmarks.loading OUT.json [--images 2000] [--batch 64] [--workers 0 2] [--rounds 3]

A folder of JPEG files of ImageNet's usual size, 500×375, is made of smoothed noise, and WebDataset shards of it. All loaders
do one work: decode, crop at random, resize to 224 pixels, mirror, normalise, and put whole batches together. They take turns,
and each figure is the median of the rounds. Nothing is trained. Needs the library webdataset, which writes the shards.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.script import parser_of, write_json
from lrpet.train.data.batches import batches
from lrpet.train.data.options import BatchOptions
from lrpet.train.data.sets import load
from lrpet.train.provenance import provenance

SIDE, CLASSES = 224, 10


def write_images(folder: Path, count: int) -> None:
    """Write so many images for training, and one of each class for scoring."""
    random = np.random.default_rng(0)
    for part, number in (("train", count), ("val", CLASSES)):
        for i in range(number):
            coarse = Image.fromarray(random.integers(0, 256, (48, 64, 3), dtype=np.uint8))
            path = folder / part / f"{i % CLASSES:04d}" / f"{i:06d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            coarse.resize((500, 375), Image.Resampling.BICUBIC).save(path, quality=95)


def write_shards(folder: Path, shards: Path) -> None:
    """Write the images as WebDataset shards of 500 images."""
    import webdataset

    shards.mkdir()
    for part in ("train", "val"):
        with webdataset.ShardWriter(str(shards / f"{part}-%06d.tar"), maxcount=500, verbose=0) as writer:
            for path in sorted((folder / part).rglob("*.jpg")):
                writer.write({"__key__": path.stem, "jpg": path.read_bytes(), "cls": int(path.parent.name)})


def plain(folder: Path, *, batch: int, workers: int) -> Iterator[Any]:
    """Load as torchvision's own examples do."""
    from torch.utils.data import DataLoader
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    steps = [
        transforms.RandomResizedCrop(SIDE),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ]
    images = ImageFolder(str(folder / "train"), transforms.Compose(steps))
    return iter(DataLoader(images, batch, shuffle=True, drop_last=True, num_workers=workers))


def lrpet_loader(name: str, *, batch: int, workers: int) -> Iterator[Any]:
    """Load as `lrpet train` does."""
    dataset = load(name, image_size=SIDE)
    options = BatchOptions(batch, num_workers=workers)
    return iter(batches(dataset.train, dataset, options, device=torch.device("cpu"), train=True))


def rate(made: Callable[[], Iterable[Any]]) -> float:
    """Return images per second of one epoch, without the time until its first batch."""
    epoch = iter(made())
    next(epoch)
    begin, count = time.perf_counter(), 0
    for images, _ in epoch:
        count += len(images)
    return count / (time.perf_counter() - begin)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Any] = {
        **provenance(),
        "seed": 0,
        "images": options.images,
        "batch": options.batch,
        "images_per_second": {},
    }
    with tempfile.TemporaryDirectory() as place:
        folder, shards = Path(place) / "images", Path(place) / "shards"
        write_images(folder, options.images)
        write_shards(folder, shards)
        for workers in options.workers:
            common = {"batch": options.batch, "workers": workers}
            loaders = {
                "torchvision": partial(plain, folder, **common),
                "folder": partial(lrpet_loader, f"folder:{folder}", **common),
                "webdataset": partial(lrpet_loader, f"webdataset:{shards}", **common),
            }
            rates: dict[str, list[float]] = {name: [] for name in loaders}
            for _ in range(options.rounds):
                for name, made in loaders.items():
                    rates[name].append(rate(made))
            medians = {name: statistics.median(each) for name, each in rates.items()}
            results["images_per_second"][str(workers)] = {"median": medians, "rounds": rates}
            print(f"{workers} workers", json.dumps({name: round(median, 1) for name, median in medians.items()}))
    write_json(options.out, results)


if __name__ == "__main__":
    main()
