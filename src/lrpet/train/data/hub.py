"""Image sets of the Hugging Face library `datasets`: by name, or from a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

#: What the part that is scored may be called; the first that has labels is taken.
SCORED = ("test", "validation", "val")


@dataclass(frozen=True, eq=False)
class Rows:
    """The images of one part of a data set, encoded."""

    rows: Any
    column: str
    title: str
    shards: None = None

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, number: int) -> str:
        """Return the file that an image came from, if the data set says so, and its row."""
        path = self.rows[number][self.column]["path"]
        return f"{self.title}, row {number}" + (f" ({path})" if path else "")

    def read(self, number: int) -> bytes:
        """Return an encoded image. Raises OSError if it cannot be read."""
        image = self.rows[number][self.column]
        return bytes(image["bytes"]) if image["bytes"] is not None else Path(image["path"]).read_bytes()


def read_parts(name: str, *, download: bool = True) -> tuple[dict[str, tuple[Rows, Tensor]], tuple[str, ...]]:
    """Read the parts "train" and "test" of a data set, each with its labels (N,), and the names of its classes.

    `name` is that of a data set, or a folder: one that `save_to_disk` wrote, or of Parquet or image files. Without `download`
    only what is on this machine is read.

    Raises:
        ImportError: the library `datasets` is not installed.
        FileNotFoundError: there is no such data set, or it cannot be fetched.
        ValueError: it lacks a part, or has no column of images or of classes.
    """
    with _online(download):
        parts = _loaded(name)
    if "train" not in parts or not set(SCORED) & set(parts):
        raise ValueError(f"hf:{name} has the parts {', '.join(parts)}: it needs train, and one of {', '.join(SCORED)}")
    image, label = _columns(name, parts["train"].features)
    classes = tuple(parts["train"].features[label].names)
    labels = {part: torch.tensor(parts[part][label][:]) for part in ("train", *SCORED) if part in parts}
    scored = next((part for part in SCORED if part in labels and int(labels[part].min()) >= 0), None)
    if scored is None:
        raise ValueError(f"hf:{name} has no part with labels to score on: {', '.join(parts)}")
    from datasets import Image

    def rows(part: str) -> tuple[Rows, Tensor]:
        return Rows(parts[part].cast_column(image, Image(decode=False)), image, f"hf:{name}, {part}"), labels[part]

    return {"train": rows("train"), "test": rows(scored)}, classes


@contextmanager
def _online(download: bool) -> Iterator[None]:
    """Let the libraries read nothing from elsewhere inside the block, unless they may download."""
    try:
        import datasets.config
        import huggingface_hub.constants
    except ImportError:  # which is said where the library is needed
        yield
        return
    configs: list[Any] = [datasets.config, huggingface_hub.constants]
    before = [config.HF_HUB_OFFLINE for config in configs]
    for config in configs:
        config.HF_HUB_OFFLINE |= not download
    try:
        yield
    finally:
        for config, offline in zip(configs, before, strict=True):
            config.HF_HUB_OFFLINE = offline


def _loaded(name: str) -> Any:
    try:
        from datasets import load_dataset, load_from_disk
    except ImportError as error:
        raise ImportError("data called hf:NAME needs datasets: pip install 'lrpet[data]'", name="datasets") from error
    try:
        if (Path(name) / "dataset_dict.json").is_file():
            return load_from_disk(name)
        return load_dataset(name)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"hf:{name} is no folder of a data set, and fetching it by that name failed: {error}"
        ) from error


def _columns(name: str, features: Any) -> tuple[str, str]:
    """Return the column of images and that of classes."""
    from datasets import ClassLabel, Image

    found = []
    for kind in (Image, ClassLabel):
        columns = [column for column, feature in features.items() if isinstance(feature, kind)]
        if len(columns) != 1:
            raise ValueError(
                f"hf:{name} has {len(columns)} columns of type {kind.__name__}, not one; its columns are {features}"
            )
        found.append(columns[0])
    return found[0], found[1]
