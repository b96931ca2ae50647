"""What accelerate leaves on a network."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from lrpet.train.accelerator import as_it_was


@pytest.fixture
def fresh() -> Iterator[None]:
    """Each accelerator may have a precision of its own, and so may those of later tests."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("fresh")
def test_a_network_can_be_prepared_again() -> None:
    network = nn.Sequential(nn.Linear(3, 2))
    before = dict(network.__dict__)
    for _ in range(2):
        accelerator = Accelerator(cpu=True, mixed_precision="bf16")
        prepared = accelerator.prepare(network)
        assert prepared.__dict__.keys() > before.keys()
        assert prepared(torch.zeros(1, 3)).dtype == torch.float32
        assert as_it_was(accelerator.unwrap_model(prepared, keep_fp32_wrapper=False)) is network
        assert network.__dict__.keys() == before.keys()


def test_a_forward_of_its_own_stays() -> None:
    network = nn.Linear(3, 2)
    network.forward = lambda inputs: 2 * inputs  # type: ignore[method-assign, assignment]
    assert torch.equal(as_it_was(network)(torch.ones(1)), torch.tensor([2.0]))
