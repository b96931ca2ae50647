"""Replicas of one network, as under DistributedDataParallel, stay equal and come to what one process comes to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import replicas
from helpers import images
from processes import results


def assert_equal(mine: dict[str, Any], other: dict[str, Any]) -> None:
    assert mine.keys() == other.keys()
    for name, tensor in mine.items():
        assert torch.equal(tensor, other[name]), name


@pytest.mark.parametrize("size", [2, 4])
def test_a_projection_is_that_of_one_process_on_all(tmp_path: Path, size: int) -> None:
    found = results(size, replicas.projected, tmp_path)
    for i, options in enumerate(replicas.OPTIONS):
        alone = replicas.projected_once(options)
        for process in found:
            assert_equal(process[i]["weights"], found[0][i]["weights"])
            for name, numbers in process[i]["layers"].items():
                assert numbers == pytest.approx(alone["layers"][name], rel=1e-5, abs=1e-6)
        for name, weight in found[0][i]["weights"].items():
            torch.testing.assert_close(weight, alone["weights"][name], rtol=1e-5, atol=1e-6)


def test_all_processes_look_at_the_outputs_together(tmp_path: Path) -> None:
    inputs = [images(4, 3, 8, 8, seed=seed) for seed in range(4)]
    first, second = results(2, replicas.calibrated, tmp_path, inputs)
    assert_equal(first["weights"], second["weights"])
    alone = replicas.calibrated(inputs)
    assert first["ranks"] == second["ranks"] == alone["ranks"]
    for name, weight in first["weights"].items():
        torch.testing.assert_close(weight, alone["weights"][name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"broadcast_buffers": False}], ids=str)
def test_replicas_stay_equal_over_a_training(tmp_path: Path, options: dict[str, Any]) -> None:
    first, second = results(2, replicas.trained, tmp_path, options)
    assert_equal(first["weights"], second["weights"])
    assert first["ranks"] == second["ranks"]
    assert first["ranks"] != first["planned"]  # divided again at the first projection, by trained weights
    assert first["pruned"] == second["pruned"]
    assert_equal(first["compact"], second["compact"])


def test_what_fails_in_one_process_fails_in_all_and_changes_nothing(tmp_path: Path) -> None:
    first, second = results(2, replicas.failing, tmp_path)
    assert first["message"].startswith("process 1 failed: NaN or Inf in the weights or batch norm of ")
    assert second["message"].startswith("NaN or Inf in the weights or batch norm of ")
    assert first["unchanged"]
    assert second["unchanged"]


def test_a_process_that_ends_ends_the_others_with_a_name(tmp_path: Path) -> None:
    message, _ = results(2, replicas.losing, tmp_path, tmp_path)
    assert message.startswith("process 1 did not send what it found for ")


def test_plans_that_differ_are_refused(tmp_path: Path) -> None:
    for message in results(2, replicas.planning_apart, tmp_path):
        assert "the plan differs between the 2 processes: " in message


def test_one_process_may_project_a_copy_alone(tmp_path: Path) -> None:
    first, second = results(2, replicas.copying, tmp_path)
    assert first["ranks"]
    assert second["ranks"] == {}
