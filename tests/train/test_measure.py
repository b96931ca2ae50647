"""Scores, sizes and latencies, and that measuring leaves a network in the modes it was in."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers import images, small_network
from lrpet.latency.measure import latency
from lrpet.latency.memory import saved_bytes
from lrpet.train.measure import score


def partly_frozen() -> nn.Sequential:
    """Make a training network whose batch norm has been frozen, as fine-tuning does."""
    network = small_network().train()
    network[1].eval()
    return network


def mean_of(network: nn.Sequential) -> Tensor:
    norm = network[1]
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    return norm.running_mean.clone()


def test_a_score_is_the_mean_over_all_images() -> None:
    network = small_network().eval()
    x, labels = images(10, 3, 6, 6), torch.arange(10) % 4
    scored = score(network, zip(x.chunk(3), labels.chunk(3), strict=True))
    with torch.no_grad():
        logits = network(x)
    assert scored.loss == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-6)
    assert scored.accuracy == pytest.approx(float((logits.argmax(1) == labels).float().mean()))
    with pytest.raises(ValueError, match="nothing to score the network on"):
        score(network, [])


def test_measuring_leaves_a_frozen_batch_norm_frozen() -> None:
    network = partly_frozen()
    modes = [module.training for module in network.modules()]
    mean = mean_of(network)
    x = images(4, 3, 6, 6)
    score(network, [(x, torch.zeros(4, dtype=torch.long))])
    assert [module.training for module in network.modules()] == modes
    latency({"one": network}, x, seconds=0.0)
    assert [module.training for module in network.modules()] == modes
    assert torch.equal(mean_of(network), mean)


def test_modes_come_back_after_an_error() -> None:
    network = partly_frozen()
    modes = [module.training for module in network.modules()]
    wrong = images(4, 5, 6, 6)
    with pytest.raises(RuntimeError):
        score(network, [(wrong, torch.zeros(4, dtype=torch.long))])
    with pytest.raises(RuntimeError):
        latency({"one": network}, wrong)
    assert [module.training for module in network.modules()] == modes


def test_shared_weights_count_once() -> None:
    first, second = nn.Linear(5, 5, bias=False), nn.Linear(5, 5, bias=False)
    assert saved_bytes(nn.Sequential(first, second)) == 200
    second.weight = first.weight
    assert saved_bytes(nn.Sequential(first, second)) == 100
