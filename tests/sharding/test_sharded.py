"""Weights sharded by `fully_shard` come to what one process comes to."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import replicas
import sharded_checkpoints
import shards
from old_torch import training_shards
from processes import results


@pytest.mark.parametrize(("size", "hybrid"), [(2, False), (4, False), (4, True)])
def test_a_projection_is_that_of_one_process(tmp_path: Path, size: int, hybrid: bool) -> None:
    found = results(size, shards.projected, tmp_path, hybrid)
    for i, options in enumerate(replicas.OPTIONS):
        alone = replicas.projected_once(options)
        for process in found:
            for name, numbers in process[i]["layers"].items():
                assert numbers == pytest.approx(alone["layers"][name], rel=1e-5, abs=1e-6)
            for name, weight in process[i]["weights"].items():
                assert torch.equal(weight, found[0][i]["weights"][name])
                torch.testing.assert_close(weight, alone["weights"][name], rtol=1e-5, atol=1e-6)


@training_shards
@pytest.mark.parametrize("size", [2, 4])
def test_a_language_model_trains_as_in_one_process(tmp_path: Path, size: int) -> None:
    """Its weights have 20, 48, 16, 5 and 3 rows, so that shards are uneven and some empty."""
    alone = shards.language_model_trained(False, tmp_path / "alone")
    assert alone["ranks"] != alone["planned"]
    first, *others = results(size, shards.language_model_trained, tmp_path, True, tmp_path)
    assert (first["devices"], first["tied"]) == (["cpu"], True)
    assert all((each["devices"], each["tied"]) == (["meta"], True) for each in others)
    for mine, expected in zip(first["outputs"], alone["outputs"], strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-3, atol=1e-3)
    for process in (first, *others):
        assert process["ranks"] == alone["ranks"]
        for name, weight in process["weights"].items():
            torch.testing.assert_close(weight, alone["weights"][name], rtol=1e-3, atol=1e-4)


@training_shards
def test_a_sharded_checkpoint_goes_on_in_any_number_of_processes(tmp_path: Path) -> None:
    """Two processes begin, four go on, and one, which shards alone, ends."""
    steps = sharded_checkpoints.STEPS
    for size, begin, end in zip((2, 4, 1), steps, steps[1:], strict=False):
        found = results(size, sharded_checkpoints.trained, tmp_path / str(size), begin, end, tmp_path)
    (resumed,) = found
    alone = sharded_checkpoints.trained(0, steps[-1], None)
    assert (resumed["steps"], resumed["ranks"]) == (alone["steps"], alone["ranks"])
    torch.testing.assert_close(resumed["outputs"], alone["outputs"], rtol=1e-3, atol=1e-3)


def test_a_process_that_ends_in_an_exchange_ends_the_others_with_names(tmp_path: Path) -> None:
    message, _ = results(2, shards.losing, tmp_path, tmp_path)
    assert message.startswith(
        "process 0 could not send rows to the owners of 0, 3, 6, 9, 14, for which it waited for process 1: "
    )


def test_weights_split_along_columns_and_outputs_of_shards_are_refused(tmp_path: Path) -> None:
    for messages in results(2, shards.refused, tmp_path):
        columns, outputs = messages
        assert outputs.startswith("calibration is for weights that each process holds whole, and these are sharded: ")
        assert columns.startswith(
            "the weight of '0' is placed as (S(1)): only weights that are sharded by rows along one "
        )
