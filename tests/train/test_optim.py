"""Optimizers and learning-rate schedules of a config."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from timm.optim.lamb import Lamb

from helpers import small_network
from lrpet import models
from lrpet.train.config import make_config
from lrpet.train.optim import make_optimizer, make_schedule


def config(**changes: Any) -> Any:
    return make_config({"method": "dense", "epochs": 4, **changes})


def decayed(optimizer: torch.optim.Optimizer) -> set[int]:
    return {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}


@pytest.mark.parametrize(("name", "kind"), [("adamw", torch.optim.AdamW), ("lamb", Lamb)])
def test_adamw_and_lamb_decay_no_norms_and_biases(name: str, kind: type[torch.optim.Optimizer]) -> None:
    network = small_network()
    optimizer = make_optimizer(config(optimizer=name, weight_decay=0.05), network)
    assert isinstance(optimizer, kind)
    assert decayed(optimizer) == {id(p) for p in network.parameters() if p.ndim > 1}
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == {id(p) for p in network.parameters()}
    assert all(group["weight_decay"] in (0, 0.05) for group in optimizer.param_groups)


def test_adamw_decays_nothing_that_the_network_excludes() -> None:
    network = models.create("timm:vit_tiny_patch16_224", arguments={"img_size": 16, "embed_dim": 12, "depth": 1})
    optimizer = make_optimizer(config(optimizer="adamw", weight_decay=0.05), network)
    names = {name for name, p in network.named_parameters() if id(p) in decayed(optimizer)}
    assert "blocks.0.mlp.fc1.weight" in names
    assert not {"pos_embed", "cls_token", "norm.weight", "head.bias"} & names


def test_sgd_decays_everything_in_one_group() -> None:
    network = small_network()
    network[0].requires_grad_(False)
    optimizer = make_optimizer(config(nesterov=True, momentum=0.8, weight_decay=1e-3, lr=0.3), network)
    assert isinstance(optimizer, torch.optim.SGD)
    (group,) = optimizer.param_groups
    assert [id(p) for p in group["params"]] == [id(p) for p in network.parameters() if p.requires_grad]
    assert (group["lr"], group["momentum"], group["nesterov"], group["weight_decay"]) == (0.3, 0.8, True, 1e-3)
    (plain,) = make_optimizer(config(), network).param_groups
    assert not plain["nesterov"]


@pytest.mark.parametrize(
    ("changes", "rates"),
    [
        ({"schedule": "constant"}, [0.1] * 8),
        ({"schedule": "step", "milestones": (1, 3)}, [0.1, 0.1, 0.01, 0.01, 0.01, 0.01, 0.001, 0.001]),
        ({"schedule": "step", "milestones": (2,), "warmup_epochs": 1}, [0.05, 0.075, 0.1, 0.1, 0.01, 0.01, 0.01, 0.01]),
        (
            {"schedule": "cosine", "warmup_epochs": 2},
            [0.025, 0.04375, 0.0625, 0.08125, 0.1, 0.0853553, 0.05, 0.0146447],
        ),
    ],
    ids=["constant", "step", "step after warm-up", "cosine after warm-up"],
)
def test_rates_of_every_step(changes: dict[str, Any], rates: list[float]) -> None:
    given = config(lr=0.1, **changes)
    optimizer = make_optimizer(given, small_network())
    schedule = make_schedule(given, optimizer, 2)
    seen = []
    for _ in range(8):
        seen.append(schedule.get_last_lr()[0])
        optimizer.step()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # SequentialLR's own, about its epochs
            schedule.step()
    assert seen == pytest.approx(rates, abs=1e-6)


def test_one_cycle_rises_to_the_peak_and_falls_to_nothing() -> None:
    given = config(lr=0.4, epochs=10)
    optimizer = make_optimizer(given, small_network())
    schedule = make_schedule(given, optimizer, 10)
    seen = []
    for _ in range(99):
        seen.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert max(seen) == pytest.approx(0.4)
    assert seen.index(max(seen)) == 29
    assert seen[-1] < 1e-3 < seen[0] < 0.05
