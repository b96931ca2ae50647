"""The examples for other tasks run to the end, on data of the same format as theirs."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import lrpet
from lrpet.compact.files import read_manifest

EXAMPLES = Path(__file__).parents[2] / "examples"


def script(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_voc(root: Path, year: str, parts: dict[str, int]) -> None:
    """Images of one bright box on noise, with its outline and its mask, as Pascal VOC stores them."""
    base = root / "VOCdevkit" / f"VOC{year}"
    for folder in ("Annotations", "ImageSets/Main", "ImageSets/Segmentation", "JPEGImages", "SegmentationClass"):
        (base / folder).mkdir(parents=True)
    random = np.random.default_rng(0)
    for part, count in parts.items():
        names = [f"{part}{i:04}" for i in range(count)]
        for kind in ("Main", "Segmentation"):
            (base / "ImageSets" / kind / f"{part}.txt").write_text("\n".join(names) + "\n")
        for name in names:
            left, top = (int(x) for x in random.integers(4, 24, 2))
            right, bottom = left + 32, top + 32
            pixels = random.integers(0, 60, (64, 72, 3), dtype=np.uint8)
            pixels[top:bottom, left:right] = (250, 240, 30)
            Image.fromarray(pixels).save(base / "JPEGImages" / f"{name}.jpg")
            mask = np.zeros((64, 72), dtype=np.uint8)
            mask[top:bottom, left:right] = 15
            mask[top, left:right] = 255
            Image.fromarray(mask, mode="L").save(base / "SegmentationClass" / f"{name}.png")
            (base / "Annotations" / f"{name}.xml").write_text(
                f"<annotation><filename>{name}.jpg</filename><size><width>72</width><height>64</height><depth>3</depth></size>"
                f"<object><name>person</name><difficult>0</difficult><bndbox><xmin>{left}</xmin><ymin>{top}</ymin>"
                f"<xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object></annotation>"
            )


@pytest.mark.filterwarnings("ignore")
def test_detection(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_voc(tmp_path, "2007", {"trainval": 4, "test": 2})
    options = ["--output", str(tmp_path / "compact"), "--epochs", "2", "--every", "1", "--side", "64", "--lr", "0.001"]
    found = script("detection").main([str(tmp_path), *options])
    assert 0 <= found <= 1
    plan = lrpet.Plan.from_dict(read_manifest(tmp_path / "compact")["plan"])
    assert len(plan.ranks) == 52
    assert all(name.startswith("backbone.body.") for name in plan.ranks)
    assert all(layer.batch_norm for layer in plan.layers if layer.rank)
    assert "epoch 2: loss" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore")
def test_segmentation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_voc(tmp_path, "2012", {"train": 4, "val": 2})
    options = ["--output", str(tmp_path / "compact"), "--epochs", "2", "--every", "1", "--side", "64"]
    found = script("segmentation").main([str(tmp_path), *options])
    assert 0 < found <= 1
    plan = lrpet.Plan.from_dict(read_manifest(tmp_path / "compact")["plan"])
    assert len(plan.ranks) > 45
    assert all(name.startswith("backbone.") for name in plan.ranks)
    assert "epoch 2: loss" in capsys.readouterr().out
