"""What the divisions of a kernel keep of its energy."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks.divisions import divided, tucker_energy


def kernel(filters: int = 10, channels: int = 8) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(channels, filters, 3, padding=1)


def test_a_tucker_core_keeps_no_more_than_either_of_its_unfoldings() -> None:
    weight = kernel().weight.detach()
    for out, into in ((10, 8), (5, 8), (10, 3), (4, 4)):
        kept = tucker_energy(weight, out, into)
        for side, rank in ((weight, out), (weight.transpose(0, 1), into)):
            values = torch.linalg.svdvals(side.flatten(1).double()).square()
            assert kept <= float(values[:rank].sum() / values.sum()) + 1e-9
    assert tucker_energy(weight, 10, 8) == pytest.approx(1)
    one_side = torch.linalg.svdvals(weight.flatten(1).double()).square()
    assert tucker_energy(weight, 5, 8) == pytest.approx(float(one_side[:5].sum() / one_side.sum()), abs=1e-9)


def test_a_tucker_core_finds_what_is_there() -> None:
    torch.manual_seed(1)
    core, left, right = torch.randn(3, 2, 3, 3), torch.randn(10, 3), torch.randn(8, 2)
    weight = torch.einsum("omij,no,cm->ncij", core, left, right)
    assert tucker_energy(weight, 3, 2) == pytest.approx(1, abs=1e-6)
    assert tucker_energy(weight, 2, 2) < 0.999


def test_every_division_keeps_to_the_budget() -> None:
    module = kernel(16, 12)
    found = {each["division"]: each for each in divided(module, 0.4)}
    assert list(found) == ["channel", "spatial", "tucker"]
    allowed = 0.4 * module.weight.numel()
    (whole,), (thin,), (out, into) = (each["ranks"] for each in found.values())
    assert 0.8 * allowed < whole * (12 * 9 + 16) <= allowed
    assert 0.8 * allowed < thin * (12 * 3 + 16 * 3) <= allowed
    assert 0.8 * allowed < into * 12 + 9 * out * into + out * 16 <= allowed
    assert all(0 < each["kept"] < 1 for each in found.values())
