"""The moving average of the weights: what it averages, what it stands for, and that it goes on to the same bits."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch

import lrpet
from helpers import images, small_network, weight
from lrpet.train.average import Average
from lrpet.train.preemption import PreemptedError
from lrpet.train.processes import Processes
from runs import lines, quick, run, told_at, weights

ALONE = Processes(on_cpu=True)


@torch.no_grad()
def test_it_stands_for_the_nearest_low_rank_network() -> None:
    """The average of low-rank weights is of higher rank, and stays so; a copy of it is projected."""
    network = small_network()
    plan = lrpet.plan(network, images(1, 3, 6, 6), keep=0.5)
    projector = lrpet.Projector(
        network, plan, total_steps=9, start=2, every=1, energy_transfer=False, rectify=False, solver="svd"
    )
    average = Average(network, 0.75, device=torch.device("cpu"))
    expected, rank = torch.zeros(0), plan.ranks["3"]
    random = torch.Generator().manual_seed(0)
    for step in range(1, 6):
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=random))
        projector.step()
        average.update(network)
        latest = weight(network, "3").clone()
        expected = latest if step == 1 else 0.75 * expected + 0.25 * latest
        if step == 1:  # nothing was projected yet
            torch.testing.assert_close(weight(average.network(projector, ALONE), "3"), expected)
    left, values, right = torch.linalg.svd(expected, full_matrices=False)
    assert values[rank] > 0.1 * values[0]
    for _ in range(2):
        nearest = left[:, :rank] * values[:rank] @ right[:rank]
        torch.testing.assert_close(weight(average.network(projector, ALONE), "3"), nearest, rtol=1e-3, atol=1e-3)


@pytest.mark.usefixtures("untimed")
def test_a_run_scores_and_keeps_the_average_and_goes_on_with_it(tmp_path: Path) -> None:
    options: dict[str, Any] = {"epochs": 2, "every": 3, "start": 0, "ema": 0.9, "model": "resnet8"}
    whole, cut, plain = (quick(tmp_path / name, **options) for name in ("whole", "cut", "plain"))
    plain = plain.model_copy(update={"ema": None})
    run(whole)
    with told_at(14, signal.SIGTERM), pytest.raises(PreemptedError, match="after 1 epochs and 4 steps"):
        run(cut)
    run(cut, resume=True)
    run(plain)
    mine, expected, other = (weights(config.folder) for config in (cut, whole, plain))
    assert all(torch.equal(mine[name], expected[name]) for name in expected)
    assert not torch.equal(expected["fc.weight"], other["fc.weight"])
    scores = [
        [(line["train_loss"], line["val_loss"]) for line in lines(config.folder) if line["kind"] == "epoch"]
        for config in (whole, cut, plain)
    ]
    assert scores[0] == scores[1]
    assert [train for train, _ in scores[0]] == [
        train for train, _ in scores[2]
    ]  # what is trained is the network itself
    assert all(mine != other for (_, mine), (_, other) in zip(scores[0], scores[2], strict=True))
