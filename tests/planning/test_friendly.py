"""Ranks that hardware likes, by default: which multiples, that every budget is still met, and what is left of it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import lrpet
from helpers import images
from lrpet.models.factory import create
from lrpet.planning.costs import MatrixCost
from lrpet.planning.friendly import friendly_multiple

IMAGE = images(1, 3, 32, 32)


def square(size: int) -> MatrixCost:
    return MatrixCost(size, size, 1)


@pytest.mark.parametrize(
    ("size", "share", "widest", "multiple"),
    [
        (512, 0.5, 512, 16),
        (64, 0.5, 128, 16),
        (64, 0.5, 127, 8),
        (63, 0.5, 512, 8),
        (16, 1.0, 16, 8),
        (15, 1.0, 512, 1),
        (16, 0.5, 64, 4),
        (128, 0.05, 128, 4),
        (64, 0.001, 64, 1),
    ],
)
def test_multiples_are_what_the_sizes_and_the_budget_allow(size: int, share: float, widest: int, multiple: int) -> None:
    assert friendly_multiple(square(size), share, widest=widest) == multiple


@pytest.mark.parametrize("allocate", ["uniform", "energy", "threshold"])
@pytest.mark.parametrize("macs", [0.25, 0.45, 0.7])
def test_wide_networks_get_multiples_that_spend_the_budget(macs: float, allocate: Any) -> None:
    torch.manual_seed(0)
    model = create("vgg16_bn")
    plan = lrpet.plan(model, IMAGE, macs=macs, allocate=allocate)
    assert 0.99 * macs * plan.macs_dense <= plan.macs <= macs * plan.macs_dense
    odd = [layer for layer in plan.layers if layer.rank and layer.rank % (16 if layer.shape.full_rank >= 64 else 8)]
    assert len(odd) <= 2


def test_multiples_of_a_narrow_network_shrink_with_the_budget() -> None:
    torch.manual_seed(0)
    model = create("resnet20")
    half = lrpet.plan(model, IMAGE, macs=0.45)
    assert all(rank % 8 == 0 for name, rank in half.ranks.items() if name != "conv1")  # its full rank is 16
    tenth = lrpet.plan(model, IMAGE, macs=0.1)
    assert 0.099 * tenth.macs_dense <= tenth.macs <= 0.1 * tenth.macs_dense
    assert any(rank % 8 for rank in tenth.ranks.values())


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(2, 80), min_size=2, max_size=5), macs=st.floats(0.03, 1.0), seed=st.integers(0, 5))
def test_whatever_any_rank_meets_is_met(sizes: list[int], macs: float, seed: int) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(*[nn.Linear(a, b) for a, b in pairwise(sizes)], nn.Linear(sizes[-1], 2))
    example = images(1, sizes[0])
    try:
        lrpet.plan(model, example, macs=macs, multiple_of=1)
    except ValueError:
        with pytest.raises(ValueError, match="cannot be met"):
            lrpet.plan(model, example, macs=macs)
        return
    friendly = lrpet.plan(model, example, macs=macs)
    assert friendly.macs <= macs * friendly.macs_dense * (1 + 1e-9)


def test_the_papers_settings_and_ranks_of_ones_own_are_untouched() -> None:
    torch.manual_seed(0)
    model = create("resnet20")
    assert lrpet.plan(model, IMAGE, keep=0.43).ranks == lrpet.plan(model, IMAGE, keep=0.43, multiple_of=1).ranks
    assert lrpet.plan(model, IMAGE, macs=0.45, overrides={"layer3.*": 11}).ranks["layer3.0.conv2"] == 11
    assert lrpet.plan(model, IMAGE, ranks={"layer3.0.conv2": 11}).ranks == {"layer3.0.conv2": 11}


def test_a_multiple_asked_for_is_kept_to() -> None:
    torch.manual_seed(0)
    ranks = lrpet.plan(create("resnet20"), IMAGE, macs=0.5, multiple_of=4).ranks
    assert all(rank % 4 == 0 for rank in ranks.values())
    assert any(rank % 8 for rank in ranks.values())


def test_the_division_by_trained_weights_takes_the_multiples_too() -> None:
    torch.manual_seed(0)
    model = create("vgg16_bn")
    plan = lrpet.Plan.from_json(lrpet.plan(model, IMAGE, macs=0.4).to_json())
    projector = lrpet.Projector(model, plan, total_steps=4, every=1)
    for _ in range(4):
        projector.step()
    assert "most energy" in projector.plan.budget
    odd = [rank for rank in projector.plan.ranks.values() if rank % 8]
    assert len(odd) <= 2
    assert 0.99 * 0.4 * plan.macs_dense <= projector.plan.macs <= 0.4 * plan.macs_dense


@pytest.mark.parametrize("wrong", [0, "8", "automatic", True, 2.0])
def test_other_multiples_are_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"multiple_of=.* must be a whole number, at least 1, or 'auto'"):
        lrpet.plan(nn.Linear(4, 4), images(1, 4), macs=0.5, multiple_of=wrong)
