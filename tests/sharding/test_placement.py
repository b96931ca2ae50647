"""Who projects what is a pure function of the shapes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import lrpet
from lrpet.sharding.exchange import rows_of
from lrpet.sharding.placement import ALONE, owners
from lrpet.sharding.work import assigned

COSTS = st.lists(st.floats(0.01, 100), max_size=40)


@given(COSTS, st.integers(1, 9))
def test_no_process_has_more_to_do_than_a_greedy_division_allows(costs: list[float], size: int) -> None:
    assert owners(costs, size) == owners(list(costs), size)
    loads = [0.0] * size
    for cost, owner in zip(costs, owners(costs, size), strict=True):
        loads[owner] += cost
    largest = max(costs, default=0.0)
    assert max(loads) <= max(largest, sum(costs) / size + largest * (1 - 1 / size)) * (1 + 1e-9)


@given(st.integers(1, 50), st.integers(1, 9))
def test_rows_are_divided_as_torch_divides_them(length: int, size: int) -> None:
    chunks = [len(chunk) for chunk in torch.arange(length).chunk(size)]
    assert rows_of(length, size) == chunks + [0] * (size - len(chunks))


def test_a_process_alone_does_all_itself() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))
    layers = lrpet.plan(model, torch.randn(1, 8), ranks={"0": 2, "1": 2}).bind(model)
    work = assigned(list(layers.values()))
    assert [each.placement for each in work] == [ALONE, ALONE]
    assert all(each.here for each in work)


@pytest.mark.parametrize("size", [2, 8, 64])
def test_a_deep_network_is_balanced(size: int) -> None:
    costs = [float(width**3) for width in (1024, 1024, 1024, 4096) for _ in range(64)]
    loads = [0.0] * size
    for cost, owner in zip(costs, owners(costs, size), strict=True):
        loads[owner] += cost
    assert max(loads) <= 1.05 * sum(costs) / size
