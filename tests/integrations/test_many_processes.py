"""The loops of frameworks in two processes: replicas stay equal, and every process counts every step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import loops
from processes import results


def assert_replicas(found: list[dict[str, Any]], *, steps: int) -> None:
    first, second = found
    assert first["steps"] == second["steps"] == steps
    assert first["ranks"] == second["ranks"]
    for name, weight in first["weights"].items():
        assert torch.equal(weight, second["weights"][name]), name


def test_accelerate(tmp_path: Path) -> None:
    assert_replicas(results(2, loops.accelerate, tmp_path, joined=False), steps=8)


def test_lightning(tmp_path: Path) -> None:
    assert_replicas(results(2, loops.lightning, tmp_path, tmp_path / "run", joined=False), steps=8)


def test_the_hugging_face_trainer(tmp_path: Path) -> None:
    assert_replicas(results(2, loops.huggingface, tmp_path, tmp_path / "run", joined=False), steps=8)
