"""Damaged and forged folders of compact networks: one clear error each, and nothing large is made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import lrpet
from lrpet.models.factory import create
from saved_networks import EXAMPLE, Tied, compact_tied


def test_a_missing_folder_or_file(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"nowhere is no compact model: expected lrpet.json and model.safetensors"
    ):
        lrpet.load(tmp_path / "nowhere")
    for name in ("lrpet.json", "model.safetensors"):
        folder = lrpet.save(compact_tied(), tmp_path / f"without {name}")
        (folder / name).unlink()
        with pytest.raises(FileNotFoundError, match="is no compact model: expected"):
            lrpet.load(folder, Tied())


def changed(manifest: str, **changes: Any) -> str:
    return json.dumps(json.loads(manifest) | changes)


def test_a_damaged_manifest(tmp_path: Path) -> None:
    folder = lrpet.save(compact_tied(), tmp_path / "compact")
    path = folder / "lrpet.json"
    text = path.read_text(encoding="utf-8")
    without = json.loads(text)
    del without["plan"]
    refused: dict[str | bytes, str] = {
        text[:-30]: "is damaged: the text is not JSON",
        "": "is damaged: the text is not JSON",
        b"\xff\xfe\x80": "is damaged: the text is not JSON",
        "[" * 100_000: "is damaged: the text is nested deeper than 100 levels",
        '{"format": 1' + "0" * 5000 + "}": "is damaged: Exceeds the limit",
        "[]": "is damaged: it names no format",
        "{}": "is damaged: it names no format",
        changed(text, format=2): "has format 2, this version of lrpet reads format 1: update lrpet",
        json.dumps(without): "is damaged: it lacks plan",
        changed(text, plan=[]): "not a plan",
        changed(text, plan={"format": 1, "budget": "", "layers": [{}]}): "not a plan",
    }
    for bad, message in refused.items():
        path.write_bytes(bad if isinstance(bad, bytes) else bad.encode())
        with pytest.raises(ValueError, match=message):
            lrpet.load(folder, Tied())
    path.write_text(changed(text, model={"name": "resnet20", "num_classes": "ten"}))
    with pytest.raises(ValueError, match="source"):
        lrpet.load(folder)
    path.write_text(changed(text, model={"name": "resnet21", "num_classes": 10, "in_channels": 3}))
    with pytest.raises(ValueError, match="resnet21"):
        lrpet.load(folder)


@pytest.mark.parametrize("length", [0, 5, 100, -1])
def test_truncated_weights(tmp_path: Path, length: int) -> None:
    folder = lrpet.save(compact_tied(), tmp_path / "compact")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"model.safetensors is damaged: it is not what lrpet.json says was written"):
        lrpet.load(folder, Tied())
    without_digest(folder)
    with pytest.raises(ValueError, match=r"model.safetensors does not fit this Tied: the file is damaged"):
        lrpet.load(folder, Tied())


def without_digest(folder: Path) -> None:
    """Leave the folder as lrpet 0.1 wrote it."""
    manifest = json.loads((folder / "lrpet.json").read_text())
    del manifest["sha256"]
    (folder / "lrpet.json").write_text(json.dumps(manifest))


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    folder = lrpet.save(compact_tied(), tmp_path / "compact")
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="is damaged"):
        lrpet.load(folder, Tied())
    without_digest(folder)
    lrpet.load(folder, Tied())  # nothing else could tell


def test_a_forged_manifest_makes_no_large_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten thousand million parameters would be asked for, and files opened that it names."""
    network = create("timm:resnet18")
    folder = lrpet.save(
        lrpet.factorize(network, lrpet.plan(network, EXAMPLE, ranks={"layer1.0.conv1": 4})), tmp_path / "c"
    )
    path = folder / "lrpet.json"
    text = path.read_text(encoding="utf-8")
    source = json.loads(text)["model"]
    path.write_text(changed(text, model={**source, "num_classes": 20_000_000}))
    with pytest.raises(ValueError, match="does not fit this ResNet"):
        lrpet.load(folder)
    deep = {"name": "timm:vit_tiny_patch16_224", "num_classes": 10, "in_channels": 3, "arguments": {"depth": 10_000}}
    path.write_text(changed(text, model=deep))
    with pytest.raises(ValueError, match="does not fit the network that is named beside it, which has far more layers"):
        lrpet.load(folder)
    path.write_text(changed(text, model={**source, "arguments": {"block": "os.system"}}))
    with pytest.raises(ValueError, match="resnet18"):
        lrpet.load(folder)
    path.write_text(changed(text, model={**source, "arguments": {"checkpoint_path": "/etc/passwd"}}))
    with pytest.raises(ValueError, match="must not name files or weights to load; got checkpoint_path"):
        lrpet.load(folder)


def test_weights_with_a_tensor_missing_or_too_many(tmp_path: Path) -> None:
    folder = lrpet.save(compact_tied(), tmp_path / "compact")
    path = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    without_digest(folder)
    for wrong in (
        {name: t for name, t in tensors.items() if name != "hidden.1.bias"},
        {**tensors, "more": torch.ones(2)},
    ):
        safetensors.torch.save_file(wrong, path)
        with pytest.raises(ValueError, match=r"(?s)does not fit this Tied: .*(hidden\.1\.bias|more)"):
            lrpet.load(folder, Tied())
