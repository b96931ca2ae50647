"""Small sets of data in every format that the project reads, and a training that reads all their batches and no more."""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from PIL import Image

from benchmarks.faults.specimen import Specimen, status_of
from lrpet.train import run as training
from lrpet.train.console import Console
from lrpet.train.data import formats
from lrpet.train.folder import RunFolder
from lrpet.train.task import Task

#: Images in a file of CIFAR-10 while it is damaged; the real ones have 10,000.
PER_FILE = 12
WORDS = ("--model", "resnet8", "--batch-size", "8", "--device", "cpu")
TEXT = (
    *("--model", "hf:gpt2", "--model-args", "{n_embd: 8, n_layer: 1, n_head: 1}", "--context", "8"),
    *("--batch-size", "8", "--device", "cpu"),
)


def read_all(task: Task, folder: RunFolder, console: Console) -> NoReturn:
    """Read all batches of a task, in place of training."""
    for part, shuffled in ((task.train, True), (task.validation, False), (task.dataset.test, False)):
        for _ in task.batches(part, torch.device("cpu"), training=shuffled):
            pass
    raise SystemExit(0)


def tried(folder: Path, *words: object, of: tuple[str, ...] = WORDS) -> int:
    """Begin a training with these options, which reads all its data, and return the exit status."""
    vars(training)["fit"] = read_all  # in this fork alone
    vars(formats)["PER_FILE"] = PER_FILE
    return status_of(["train", *of, *words, "--output", folder / "run"])


def _images(*shape: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def _png(number: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(_images(18 + number, 24, 3)).save(file, "png")
    return file.getvalue()


def _cifar_pickles(folder: Path) -> None:
    labels = [i % 10 for i in range(PER_FILE)]
    for name in (*formats.BATCHES, "test_batch"):
        content = pickle.dumps({b"data": _images(PER_FILE, 3072), b"labels": labels}, protocol=2)
        (folder / name).write_bytes(content)


def _cifar_records(folder: Path) -> None:
    records = _images(PER_FILE, formats.RECORD)
    records[:, 0] %= 10
    for name in (*formats.BATCHES, "test_batch"):
        (folder / f"{name}.bin").write_bytes(records.tobytes())


def _idx(folder: Path) -> None:
    for part, count in (("train", 24), ("t10k", 12)):
        images = b"\0\0\x08\x03" + np.array([count, 28, 28], ">u4").tobytes() + _images(count, 28, 28).tobytes()
        labels = b"\0\0\x08\x01" + np.array([count], ">u4").tobytes() + (_images(count) % 10).tobytes()
        (folder / f"{part}-images-idx3-ubyte").write_bytes(images)
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))


def _pictures(folder: Path) -> None:
    for part in ("train", "val"):
        for label in ("cat", "dog"):
            (folder / part / label).mkdir(parents=True)
            for number in range(6):
                (folder / part / label / f"{number}.png").write_bytes(_png(number))


def _shards(folder: Path) -> None:
    for part in ("train", "val"):
        with tarfile.open(folder / f"{part}-000.tar", "w") as file:
            for number in range(12):
                for ending, content in (("png", _png(number)), ("cls", str(number % 2).encode())):
                    entry = tarfile.TarInfo(f"{number:03d}.{ending}")
                    entry.size = len(content)
                    file.addfile(entry, io.BytesIO(content))
    (folder / "classes.txt").write_text("cat\ndog\n", encoding="utf-8")
    status = tried(folder, *_files("webdataset", folder))  # leaves the indices
    assert status == 0


def _files(kind: str, folder: Path) -> tuple[object, ...]:
    return (
        "--keep",
        "0.5",
        "--data",
        f"{kind}:{folder}",
        "--image-size",
        "16",
        "--num-workers",
        "0",
        "--holdout",
        "0.2",
    )


def _text(folder: Path) -> None:
    (folder / "text").mkdir()
    for name in ("one.txt", "two.txt"):
        (folder / "text" / name).write_text("".join(f"{i} bottles, über alles.\n" for i in range(30)), encoding="utf-8")


def _read_set(name: str) -> Any:
    return lambda folder: (tried(folder, "--keep", "0.5", "--data", name, "--data-dir", folder), None)


def _read_files(kind: str) -> Any:
    return lambda folder: (tried(folder, *_files(kind, folder)), None)


def _read_text(folder: Path) -> tuple[int, str | None]:
    return tried(folder, "--keep", "0.5", "--data", f"text:{folder / 'text'}", of=TEXT), None


SPECIMENS = (
    Specimen("CIFAR-10, python", _cifar_pickles, _read_set("cifar10"), ("*_batch*",)),
    Specimen("CIFAR-10, binary", _cifar_records, _read_set("cifar10"), ("*.bin",), weight=0.5),
    Specimen("IDX", _idx, _read_set("fashion-mnist"), ("*ubyte*",)),
    Specimen("folders of images", _pictures, _read_files("folder"), ("*/*/*.png",)),
    Specimen("WebDataset shards", _shards, _read_files("webdataset"), ("*.tar", "*.index", "classes.txt")),
    Specimen("text", _text, _read_text, ("text/*.txt",), weight=0.5),
)
