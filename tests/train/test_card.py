"""The card of a run's compact network."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

import lrpet
from lrpet.compact.card import folder_card
from lrpet.train import card
from lrpet.train.card import add_to_card


@pytest.fixture(scope="module")
def summary(finished: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((finished / "summary.json").read_text())
    return values


def test_hubs_read_the_scores_and_people_the_costs(finished: Path, summary: dict[str, Any]) -> None:
    found = ModelCard.load(finished / "compact" / "README.md")
    (result,) = found.data.eval_results
    assert (result.metric_type, result.metric_value) == ("accuracy", summary["test_accuracy"])
    assert (result.dataset_name, result.dataset_split, result.metric_args) == ("digits", "test", {"seed": 3})
    assert (found.data.license, found.data.library_name) == ("unknown", "lrpet")
    assert found.data.pipeline_tag == "image-classification"
    low, high = summary["cpu_quartiles"]
    assert low <= summary["cpu_milliseconds"] <= high
    for said in (
        f"({low:.2f}–{high:.2f})",
        f"`{summary['command']}`",
        "lrpet.load(",
        f"{summary['test_accuracy']:.2%}",
    ):
        assert said in found.text
    assert found.text.index("## Measured") < found.text.index("What was decided for every layer")


def test_a_plain_card_without_huggingface_hub(
    finished: Path, summary: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compact = lrpet.load(finished)
    shutil.copytree(finished / "compact", tmp_path / "compact")
    lrpet.save(compact, tmp_path / "compact", overwrite=True, metadata={"license": "mit"})
    monkeypatch.setattr(card, "find_spec", lambda name: None)
    add_to_card(tmp_path / "compact", summary)
    text = (tmp_path / "compact" / "README.md").read_text(encoding="utf-8")
    assert yaml.safe_load(text.split("---\n")[1]) == {
        "license": "mit",
        "library_name": "lrpet",
        "tags": ["low-rank", "compact"],
    }
    assert "## Measured" in text
    assert "license: unknown" in folder_card(compact, compact.lrpet_plan, None)  # type: ignore[arg-type]
