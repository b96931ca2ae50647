"""Data sets of the library `datasets`, from folders that the tests make."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from PIL import Image as Picture

from helpers import write_folder
from lrpet.train.data.batches import batches
from lrpet.train.data.dataset import FileImages
from lrpet.train.data.options import BatchOptions
from lrpet.train.data.sets import load


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    write_folder(tmp_path / "images", ("train", "test"))
    return tmp_path / "images"


def made(images: Path, kind: str) -> str:
    """Return the name of a set made of a folder of images."""
    read = datasets.load_dataset("imagefolder", data_dir=str(images), cache_dir=str(images.parent / "cache"))
    if kind == "files":
        return f"hf:{images}"
    place = images.parent / kind
    if kind == "disk":
        read.save_to_disk(str(place))
    else:
        place.mkdir()
        for part, rows in read.items():
            rows.to_parquet(str(place / f"{part}-00000-of-00001.parquet"))
    return f"hf:{place}"


@pytest.mark.parametrize("kind", ["files", "disk", "parquet"])
def test_a_set_holds_what_its_folder_holds(images: Path, kind: str) -> None:
    mine, other = load(made(images, kind), image_size=16), load(f"folder:{images}", image_size=16)
    assert mine.classes == other.classes == ("cat", "dog")
    assert isinstance(mine.train, FileImages)
    for part in ("train", "test"):
        made_of = [
            list(
                batches(
                    getattr(each, part), each, BatchOptions(4, num_workers=2), device=torch.device("cpu"), train=False
                )
            )
            for each in (mine, other)
        ]
        for (pixels, labels), (expected, wanted) in zip(*made_of, strict=True):
            assert torch.equal(pixels, expected)
            assert torch.equal(labels, wanted)


def test_a_corrupt_row_is_named(images: Path, tmp_path: Path) -> None:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    good = {"bytes": (images / "train" / "cat" / "0.png").read_bytes(), "path": None}
    rows = {"image": [good, {"bytes": b"no image", "path": "there/1.png"}, good], "label": [0, 1, 0]}
    parts = {part: datasets.Dataset.from_dict(rows, features=features) for part in ("train", "validation")}
    parts["test"] = datasets.Dataset.from_dict({**rows, "label": [-1, -1, -1]}, features=features)
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "set"))
    dataset = load(f"hf:{tmp_path / 'set'}", image_size=16)
    assert dataset.test.labels.tolist() == [0, 1, 0]  # what the part test has are no labels
    epoch = batches(dataset.test, dataset, BatchOptions(2), device=torch.device("cpu"), train=False)
    with pytest.raises(ValueError, match=r"hf:.*set, validation, row 1 \(1\.png\) is no readable image"):
        list(epoch)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"label": [0]}, "has 0 columns of type Image, not one"),
        ({"image": [Picture.new("RGB", (8, 8))]}, "has 0 columns of type ClassLabel"),
    ],
)
def test_other_columns_are_refused(tmp_path: Path, rows: dict[str, Any], message: str) -> None:
    features = {"label": datasets.ClassLabel(names=["a"]), "image": datasets.Image()}
    wanted = datasets.Features({name: features[name] for name in rows})
    part = datasets.Dataset.from_dict(rows, features=wanted)
    datasets.DatasetDict({"train": part, "test": part}).save_to_disk(str(tmp_path / "set"))
    with pytest.raises(ValueError, match=message):
        load(f"hf:{tmp_path / 'set'}")
    datasets.DatasetDict({"train": part}).save_to_disk(str(tmp_path / "train"))
    with pytest.raises(ValueError, match="has the parts train: it needs train, and one of test, validation, val"):
        load(f"hf:{tmp_path / 'train'}")


def test_no_set_and_no_library_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"hf:.*empty is no folder of a data set, and fetching it"):
        load(f"hf:{tmp_path / 'empty'}")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"needs datasets: pip install 'lrpet\[data\]'"):
        load("hf:anything")
