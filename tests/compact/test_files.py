"""Saved compact models: what comes back is bit for bit what was saved, or a clear error."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from torch import nn
from torch.testing._internal.two_tensor import TwoTensor

import lrpet
from helpers import realistic_
from lrpet.compact import files
from saved_networks import EXAMPLE, TOKENS, Tied, assert_same, compact_resnet, compact_tied, contents


@torch.no_grad()
def test_by_name(tmp_path: Path) -> None:
    compact = compact_resnet()
    folder = lrpet.save(compact, tmp_path / "a" / "compact")
    assert folder == tmp_path / "a" / "compact"
    torch.manual_seed(5)
    loaded = lrpet.load(folder)
    assert_same(loaded, compact)
    assert torch.equal(loaded(EXAMPLE), compact(EXAMPLE))
    assert lrpet.save(loaded, tmp_path / "again").is_dir()
    assert contents(tmp_path / "again") == contents(folder)


@torch.no_grad()
def test_onto_a_fresh_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = realistic_(torchvision.models.resnet18(num_classes=5), EXAMPLE)
    compact = lrpet.factorize(model, lrpet.plan(model, EXAMPLE[:1], ranks={"layer1.0.conv1": 9, "conv1": 4}))
    lrpet.save(compact, tmp_path / "compact")
    fresh = torchvision.models.resnet18(num_classes=5)
    before = copy.deepcopy(fresh.state_dict())
    loaded = lrpet.load(str(tmp_path / "compact"), fresh)
    assert_same(loaded, compact)
    assert torch.equal(loaded(EXAMPLE), compact(EXAMPLE))
    assert all(torch.equal(tensor, before[name]) for name, tensor in fresh.state_dict().items())
    assert fresh.training


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtypes_are_kept(tmp_path: Path, dtype: torch.dtype) -> None:
    """Also of tied weights, of which the file keeps the name that the model lists second."""
    compact = compact_tied(dtype)
    lrpet.save(compact, tmp_path / "compact")
    loaded = lrpet.load(tmp_path / "compact", Tied())
    assert_same(loaded, compact)
    assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}
    mixed = compact_resnet().to(dtype)
    mixed.get_submodule("bn1").float()
    lrpet.save(mixed, tmp_path / "mixed")
    assert_same(lrpet.load(tmp_path / "mixed"), mixed)


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    compact = compact_tied()
    lrpet.save(compact, tmp_path / "compact")
    assert "words.weight" not in safetensors.torch.load_file(tmp_path / "compact" / files.WEIGHTS)
    fresh = Tied()
    loaded = lrpet.load(tmp_path / "compact", fresh)
    assert isinstance(loaded, Tied)
    assert loaded.head.weight is loaded.words.weight
    assert loaded.head.weight is not fresh.head.weight
    assert torch.equal(loaded(TOKENS), compact(TOKENS))


def test_buffers_are_kept(tmp_path: Path) -> None:
    lrpet.save(compact_tied(), tmp_path / "compact")
    loaded = lrpet.load(tmp_path / "compact", Tied())
    assert loaded.steps == 7
    assert loaded.steps.dtype == torch.long
    assert torch.equal(loaded.mask, torch.full((12,), 2.0))  # type: ignore[arg-type]


def test_unusual_strides(tmp_path: Path) -> None:
    compact = compact_resnet().to(memory_format=torch.channels_last)
    lrpet.save(compact, tmp_path / "compact")
    assert_same(lrpet.load(tmp_path / "compact"), compact)


def test_metadata(tmp_path: Path) -> None:
    compact = compact_tied()
    metadata = {"classes": ["cat", "dög"], "mean": [0.5, 0.25], "nested": {"none": None}}
    lrpet.save(compact, tmp_path / "with", metadata=metadata)
    lrpet.save(compact, tmp_path / "without")
    assert lrpet.read_metadata(tmp_path / "with") == metadata
    assert lrpet.read_metadata(str(tmp_path / "without")) == {}
    with pytest.raises(FileNotFoundError, match="is no compact model"):
        lrpet.read_metadata(tmp_path / "nowhere")
    itself: dict[str, Any] = {}
    itself["itself"] = itself
    for what in (object(), {1: "one"}, {"a", "b"}, b"", math.nan, torch.ones(2), Path("a"), itself):
        with pytest.raises(ValueError, match=r"metadata\['mine'\]"):
            lrpet.save(compact, tmp_path / "bad", metadata={"mine": what})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["with", "without"]


# ── what is refused ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_only_compact_models_are_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"this Tied is not a compact model: pass what lrpet.factorize\(model, plan\)"):
        lrpet.save(Tied(), tmp_path / "compact")
    assert list(tmp_path.iterdir()) == []


def test_quantised_networks_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    """Quantised weights wrap plain tensors and have no storage of their own; torch's class for tests does too."""
    compact = compact_tied()
    hidden = compact.get_submodule("hidden.1")
    hidden.weight = nn.Parameter(TwoTensor(hidden.weight.detach(), hidden.weight.detach()))  # type: ignore[operator]
    with pytest.raises(
        ValueError, match=r"'hidden\.1\.weight' is a TwoTensor.*save the compact network before it is quant"
    ):
        lrpet.save(compact, tmp_path / "compact")
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_a_name_is_needed(tmp_path: Path) -> None:
    lrpet.save(compact_tied(), tmp_path / "compact")
    with pytest.raises(ValueError, match=r"holds a .*Tied, which lrpet cannot make by name: .*pass it as `model`"):
        lrpet.load(tmp_path / "compact")


def test_another_model_is_refused(tmp_path: Path) -> None:
    lrpet.save(compact_tied(), tmp_path / "compact")
    with pytest.raises(ValueError, match="expects 'hidden' to be 12×12 as a matrix, but in this model it is 16×16"):
        lrpet.load(tmp_path / "compact", Tied(width=16))
    with pytest.raises(ValueError, match="'hidden', which this Linear does not have"):
        lrpet.load(tmp_path / "compact", nn.Linear(12, 12))
    longer = Tied()
    longer.words = nn.Embedding(30, 12)
    longer.head.weight = longer.words.weight
    with pytest.raises(ValueError, match="does not fit this Tied: the file is damaged, or `model` is not the network"):
        lrpet.load(tmp_path / "compact", longer)
    untied = Tied()
    untied.words = nn.Embedding(20, 12)
    with pytest.raises(ValueError, match=r"(?s)does not fit this Tied: .*words\.weight"):
        lrpet.load(tmp_path / "compact", untied)


class Versioned(nn.Linear):
    """Asks for the version of what it loads, as torchvision's MNASNet does."""

    _version = 2

    def _load_from_state_dict(self, state_dict: Any, prefix: str, local_metadata: Any, *rest: Any) -> None:
        if local_metadata.get("version") != 2:
            raise ValueError("version should be 2")
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)


def test_modules_that_ask_for_their_version_load(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(8, 8), Versioned(8, 8))
    compact = lrpet.factorize(model, lrpet.plan(model, torch.zeros(1, 8), ranks={"0": 2}))
    lrpet.save(compact, tmp_path / "compact")
    loaded = lrpet.load(tmp_path / "compact", nn.Sequential(nn.Linear(8, 8), Versioned(8, 8)))
    x = torch.randn(2, 8)
    assert torch.equal(loaded(x), compact.eval()(x))


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: timm.create_model("resnet10t", num_classes=4, in_chans=1), "timm:resnet10t"),
        (lambda: torchvision.models.resnet18(num_classes=4), "torchvision:resnet18"),
    ],
    ids=["timm", "torchvision"],
)
def test_networks_that_libraries_made_are_made_again_by_name(
    tmp_path: Path, make: Callable[[], nn.Module], name: str
) -> None:
    torch.manual_seed(0)
    model = make().eval()
    x = torch.randn(2, 1 if name.startswith("timm") else 3, 64, 64)
    plan = lrpet.plan(model, x[:1], keep=0.2)
    lrpet.Projector(model, plan, start=0, every=1).project()
    compact = lrpet.factorize(model, plan)
    loaded = lrpet.load(lrpet.save(compact, tmp_path / "compact"))
    assert files.read_manifest(tmp_path / "compact")["model"]["name"] == name
    with torch.no_grad():
        assert torch.equal(loaded(x), compact(x))
