"""The second moments of layers' outputs: for every kind of layer, over batches, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

import lrpet
from helpers import images
from lrpet.layers import moments
from lrpet.layers.kinds import layer_of, layers_of
from lrpet.layers.moments import output_moments
from lrpet.projecting import outputs


def few(*shape: int, directions: int = 2) -> Tensor:
    """Return inputs of shape (batch, channels, …) that have as many directions in the channels, and are constant elsewhere."""
    random = torch.Generator().manual_seed(0)
    batch, channels, *rest = shape
    vectors = torch.randn(batch, directions, generator=random) @ torch.randn(directions, channels, generator=random)
    return vectors.view(batch, channels, *[1] * len(rest)).expand(shape).contiguous()


CASES: dict[str, tuple[nn.Module, Tensor, dict[str, Any]]] = {
    "linear": (nn.Linear(6, 9), few(20, 6), {}),
    "GPT-2's linear": (Conv1D(9, 6), few(20, 6), {}),  # type: ignore[no-untyped-call]
    "convolution": (nn.Conv2d(6, 9, 3), few(20, 6, 5, 5), {}),
    "groups": (nn.Conv2d(8, 10, 3, groups=2), few(20, 8, 5, 5), {}),
    "one dimension": (nn.Conv1d(6, 9, 3, stride=2), few(20, 6, 7), {}),
    "spatial": (nn.Conv2d(6, 9, 3, stride=(1, 2)), few(20, 6, 5, 6), {"unfolding": "spatial"}),
    "transposed": (nn.ConvTranspose2d(6, 9, 3, stride=2), few(20, 6, 4, 4), {}),
}


@pytest.mark.parametrize("case", CASES)
def test_what_the_inputs_do_not_show_may_go(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inputs of two directions need two components only, so that outputs at rank 2 are what they were."""
    monkeypatch.setattr(outputs, "WHITE", 0.0)
    module, x, options = CASES[case]
    compact = lrpet.compress(
        module, x[:1], ranks={"": 2}, calibration=[x[:12], x[12:]], energy_transfer=False, **options
    )
    torch.testing.assert_close(compact(x), module(x), rtol=1e-4, atol=1e-4)
    by_weights = lrpet.compress(module, x[:1], ranks={"": 2}, energy_transfer=False, **options)
    assert (by_weights(x) - module(x)).abs().max() > 0.01


def test_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "WHITE", 0.0)
    module = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    assert module.in_proj_bias is not None
    query, memory = few(30, 8).view(5, 6, 8), few(20, 8).view(5, 4, 8) * 3
    inputs = (query, memory, memory)
    compact = lrpet.compress(module, inputs, ranks={"": 2, "out_proj": 5}, calibration=[inputs], energy_transfer=False)
    torch.testing.assert_close(compact(*inputs)[0], module(*inputs)[0], rtol=1e-4, atol=1e-4)
    by_name = {"need_weights": False, "value": memory, "query": query, "key": memory}
    found, expected = (dict(output_moments(module, layers_of(module), [each])) for each in (by_name, inputs))
    torch.testing.assert_close(found, expected)


def test_moments_are_means_over_all_positions_without_the_bias() -> None:
    first = nn.Conv2d(3, 5, 3)
    assert first.bias is not None
    network = nn.Sequential(first, nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(45, 4))
    x = images(8, 3, 5, 5)
    found = dict(output_moments(network, layers_of(network), [x[:5], x[5:]]))
    rows = (first(x) - first.bias[:, None, None]).movedim(1, -1).reshape(-1, 5)
    torch.testing.assert_close(found["0"][0], rows.mT @ rows / len(rows))
    assert found["3"].shape == (1, 4, 4)


def test_several_passes_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    network, x = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 7), nn.Linear(7, 6)), few(20, 6)
    whole = dict(output_moments(network, layers_of(network), [x]))
    monkeypatch.setattr(moments, "MEMORY", 300)
    parts = dict(output_moments(network, layers_of(network), [x]))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    with pytest.raises(ValueError, match="gone through again"):
        next(output_moments(network, layers_of(network), iter([x])))


def test_refusals() -> None:
    layer = layer_of(nn.Linear(3, 3), "a")
    assert layer is not None

    def moments_of(batches: list[Tensor], model: nn.Module | None = None) -> Iterator[tuple[str, Tensor]]:
        return output_moments(model or layer.module, {"a": layer}, batches)

    with pytest.raises(ValueError, match="there are no calibration batches"):
        next(moments_of([]))
    with pytest.raises(ValueError, match="NaN or Inf in the outputs of 'a'"):
        next(moments_of([torch.full((2, 3), torch.inf)]))
    idle = layer_of(nn.Linear(3, 3), "idle")
    assert idle is not None
    with pytest.raises(ValueError, match="'idle' ran on none of the calibration batches"):
        list(output_moments(layer.module, {"a": layer, "idle": idle}, [torch.ones(1, 3)]))
