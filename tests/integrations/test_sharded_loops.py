"""FSDP2 in two processes, in the loops of frameworks, comes to what one process comes to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import sharded_loops
from old_torch import training_shards
from processes import results


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return sharded_loops.plain(False, tmp_path_factory.mktemp("alone"))


@training_shards
@pytest.mark.parametrize("loop", ["plain", "accelerate", "lightning", "huggingface"])
def test_a_sharded_gpt_trains_as_in_one_process(tmp_path: Path, alone: dict[str, Any], loop: str) -> None:
    options = (True,) if loop == "plain" else ()
    work = getattr(sharded_loops, loop)
    assert_equal(results(2, work, tmp_path, *options, tmp_path, joined=loop == "plain"), alone)


def assert_equal(processes: list[dict[str, Any]], alone: dict[str, Any]) -> None:
    first, *others = processes
    assert first["devices"] == ["cpu"]
    assert all(each["devices"] == ["meta"] for each in others)
    assert len(first["logits"]) == 1
    torch.testing.assert_close(first["logits"], alone["logits"], rtol=1e-5, atol=1e-5)
    for process in processes:
        assert (process["steps"], process["ranks"]) == (alone["steps"], alone["ranks"])
        assert process["weights"].keys() == alone["weights"].keys()
        for name, weight in process["weights"].items():
            torch.testing.assert_close(weight, alone["weights"][name], rtol=1e-5, atol=1e-5)
