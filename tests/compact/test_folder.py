"""The folder of a saved model: what is in it, and that it appears whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import lrpet
from lrpet.compact import files, write
from lrpet.compact.weights import digest
from lrpet.models.factory import create
from lrpet.models.resnet import ResNet
from saved_networks import assert_same, compact_resnet, compact_tied, contents


def test_what_is_in_the_folder(tmp_path: Path) -> None:
    """Two files, read here without lrpet and without pickle."""
    compact = compact_resnet()
    folder = lrpet.save(compact, tmp_path / "compact")
    assert sorted(contents(folder)) == ["README.md", "lrpet.json", "model.safetensors"]
    manifest = json.loads((folder / "lrpet.json").read_text(encoding="utf-8"))
    assert manifest["format"] == 1
    assert manifest["model"]["name"] == "resnet20"
    assert lrpet.Plan.from_dict(manifest["plan"]) == compact.lrpet_plan
    raw = (folder / "model.safetensors").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    assert header.keys() - {"__metadata__"} == compact.state_dict().keys()
    assert len(raw) - 8 - length == sum(t.numel() * t.element_size() for t in compact.state_dict().values())


def test_the_folder_says_what_it_is_and_how_to_read_it(tmp_path: Path) -> None:
    compact = compact_tied()
    card = (lrpet.save(compact, tmp_path / "tied") / "README.md").read_text(encoding="utf-8")
    assert str(compact.lrpet_plan) in card
    assert 'compact = lrpet.load("this folder", model)' in card
    named = create("resnet20")
    plan = lrpet.plan(named, torch.zeros(1, 3, 32, 32), keep=0.5)
    card = (lrpet.save(lrpet.factorize(named, plan), tmp_path / "named") / "README.md").read_text(encoding="utf-8")
    assert "# resnet20, compact" in card
    usage = card.partition("```python\n")[2].partition("```")[0].replace("this folder", str(tmp_path / "named"))
    scope: dict[str, Any] = {}
    exec(usage, scope)
    assert scope["compact"](torch.zeros(1, 3, 32, 32)).shape == (1, 10)


def test_the_folder_has_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "usual").mkdir()
    folder = lrpet.save(compact_tied(), tmp_path / "compact")
    assert folder.stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_an_existing_folder_is_refused_and_unchanged(tmp_path: Path) -> None:
    folder = lrpet.save(compact_tied(), tmp_path / "compact")
    before = contents(folder)
    for number in (2, 3):
        with pytest.raises(FileExistsError, match=f"compact exists: pass overwrite=True .*compact-{number} instead"):
            lrpet.save(compact_resnet(), folder)
        assert isinstance(lrpet.load(tmp_path / f"compact-{number}"), ResNet)  # nothing is lost
    assert contents(folder) == before
    assert len(list(tmp_path.iterdir())) == 3


def test_overwrite_spares_what_is_no_compact_model(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="no compact model"):
        lrpet.save(compact_resnet(), tmp_path / "thesis", overwrite=True)
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "years of work"


def test_overwrite(tmp_path: Path) -> None:
    folder = lrpet.save(compact_tied(), tmp_path / "compact")
    (folder / "notes").write_text("mine")
    compact = compact_resnet()
    lrpet.save(compact, folder, overwrite=True)
    assert sorted(contents(folder)) == ["README.md", "lrpet.json", "model.safetensors", "notes"]
    (folder / "notes").unlink()
    assert_same(lrpet.load(folder), compact)
    assert list(tmp_path.iterdir()) == [folder]
    lrpet.save(compact, tmp_path / "new", overwrite=True)
    assert contents(tmp_path / "new") == contents(folder)


@pytest.mark.parametrize("moment", ["writing", "moving"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_an_error_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, overwrite: bool
) -> None:
    folder = tmp_path / "compact"
    before: dict[str, bytes] = {}
    if overwrite:
        before = contents(lrpet.save(compact_tied(), folder))

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError("no space left")

    if moment == "writing":
        monkeypatch.setattr(files, "save_model", full)
    else:
        monkeypatch.setattr(write, "_put", full)
    with pytest.raises(OSError, match="no space left"):
        lrpet.save(compact_resnet(), folder, overwrite=overwrite)
    assert list(tmp_path.iterdir()) == ([folder] if overwrite else [])
    assert not overwrite or contents(folder) == before


def test_a_folder_that_is_overwritten_while_it_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = compact_resnet(), compact_resnet(keep=0.5)
    folder = lrpet.save(old, tmp_path / "compact")

    def meanwhile(path: Path) -> str:
        monkeypatch.setattr(files, "digest", digest)
        lrpet.save(new, folder, overwrite=True)
        return digest(path)

    monkeypatch.setattr(files, "digest", meanwhile)
    assert_same(lrpet.load(folder), new)
