"""Attention: projected like the reference, and its factors compute what it did."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lrpet
import reference
from helpers import images
from lrpet.layers.factorized_attention import FactorizedAttention


class Attending(nn.Module):
    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(12, 3, **arguments)

    def forward(self, query: Tensor, key: Tensor, **arguments: Any) -> Any:
        return self.attention(query, key, key, **arguments)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("chosen", ["both", "attention", "attention.out_proj"])
@pytest.mark.parametrize("batch_first", [True, False])
def test_attention(batch_first: bool, chosen: str, bias: bool, tmp_path: Any) -> None:
    torch.manual_seed(0)
    model = Attending(batch_first=batch_first, bias=bias).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    query, key = images(2, 5, 12), images(2, 7, 12, seed=2)
    if not batch_first:
        query, key = query.transpose(0, 1), key.transpose(0, 1)
    ranks = {name: 3 for name in ("attention", "attention.out_proj") if chosen in ("both", name)}
    before = copy.deepcopy(model)
    plan = lrpet.plan(model, (query, key), ranks=ranks)
    entry = plan.layers[0]
    assert (entry.kind, str(entry.shape)) == ("MultiheadAttention", "3 of 12×12")
    assert entry.macs_dense == 2 * (5 + 7 + 7) * 12 * 12
    if "attention" in ranks:
        assert entry.macs == 2 * (5 + 7 + 7) * 3 * 24
    assert plan.layers[1].macs_dense == 2 * 5 * 12 * 12
    lrpet.Projector(model, plan, start=0, every=1).step()
    if "attention" in ranks:
        for old, new in zip(
            before.attention.in_proj_weight.chunk(3), model.attention.in_proj_weight.chunk(3), strict=True
        ):
            torch.testing.assert_close(new.double(), reference.project(old.detach(), 3), rtol=0, atol=1e-4)
    compact = lrpet.factorize(model, plan)
    assert isinstance(compact.attention, FactorizedAttention)
    assert sum(p.numel() for p in compact.parameters()) == plan.params
    mask = torch.rand(5, 7) < 0.3
    mask[:, 0] = False
    padding = torch.tensor([[False] * 7, [False] * 4 + [True] * 3])
    per_head = torch.randn(2 * 3, 5, 7)
    for arguments in (
        {},
        {"need_weights": False},
        {"average_attn_weights": False},
        {"attn_mask": mask, "need_weights": False},
        {"attn_mask": torch.ones(5, 7).triu(1).bool(), "is_causal": True, "need_weights": False},
        {"attn_mask": per_head, "key_padding_mask": torch.zeros(2, 7).masked_fill(padding, -torch.inf)},
        {"key_padding_mask": padding},
        {"key_padding_mask": padding, "attn_mask": mask, "need_weights": False},
    ):
        expected, expected_weights = model(query, key, **arguments)
        got, weights = compact(query, key, **arguments)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
        assert (weights is None) == (expected_weights is None)
        if weights is not None:
            torch.testing.assert_close(weights, expected_weights, rtol=1e-4, atol=1e-4)
    alone = (query[0], key[0]) if batch_first else (query[:, 0], key[:, 0])
    for got, expected in zip(compact(*alone), model(*alone), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="is_causal"):
        compact(query, key, is_causal=True)

    lrpet.save(compact, tmp_path / "compact")
    loaded = lrpet.load(tmp_path / "compact", Attending(batch_first=batch_first, bias=bias))
    torch.testing.assert_close(loaded(query, key), compact(query, key))


def test_attention_drops_out_while_it_trains() -> None:
    torch.manual_seed(0)
    model, x = Attending(dropout=0.5), images(5, 2, 12)
    plan = lrpet.plan(model, (x, x), ranks={"attention": 3})
    compact = lrpet.factorize(model.train(), plan)
    for arguments in ({}, {"need_weights": False}):
        first, second = compact(x, x, **arguments)[0], compact(x, x, **arguments)[0]
        assert not torch.equal(first, second)
    assert torch.equal(compact.eval()(x, x)[0], compact(x, x)[0])


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"kdim": 12, "vdim": 12}, None),
        ({"kdim": 8}, "its query, key and value have different widths"),
        ({"add_bias_kv": True}, r"it adds a key and a value of its own \(add_bias_kv, add_zero_attn\)"),
        ({"add_zero_attn": True}, r"it adds a key and a value of its own \(add_bias_kv, add_zero_attn\)"),
    ],
)
def test_unusual_attention_stays_dense_and_says_so(arguments: dict[str, Any], reason: str | None) -> None:
    class Unusual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(12, 3, **arguments)

        def forward(self, x: Tensor, key: Tensor) -> Any:
            return self.attention(x, key, x)[0]

    model = Unusual()
    inputs = (images(5, 2, 12), images(5, 2, arguments.get("kdim", 12)))
    if reason is None:
        assert lrpet.plan(model, inputs, ranks={"attention": 3}).ranks == {"attention": 3}
    else:
        with pytest.raises(ValueError, match=reason):
            lrpet.plan(model, inputs, ranks={"attention": 3})


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage")
def test_a_transformer_with_everything_factorised() -> None:
    torch.manual_seed(0)
    x, padding = images(2, 5, 16), torch.tensor([[False] * 5, [False, False, False, True, True]])
    model = nn.Transformer(16, 2, 2, 2, 32, batch_first=True).eval()
    plan = lrpet.plan(model, (x, x), keep=0.25, include=lambda module, name: True)
    kinds = [layer.kind for layer in plan.layers if layer.rank]
    assert kinds.count("MultiheadAttention") == 2 + 4
    assert len(kinds) == 6 * 2 + 4 * 2
    lrpet.Projector(model, plan, start=0, every=1).step()
    compact = lrpet.factorize(model, plan)
    assert sum(p.numel() for n, p in compact.named_parameters() if "norm" not in n) == plan.layer_params
    assert sum(p.numel() for p in compact.parameters()) == plan.params
    causal = nn.Transformer.generate_square_subsequent_mask(5)
    with torch.no_grad():
        torch.testing.assert_close(compact(x, x), model(x, x), rtol=1e-4, atol=1e-4)
        masks = {"src_key_padding_mask": padding, "memory_key_padding_mask": padding}
        for arguments in (masks, {**masks, "tgt_mask": causal, "tgt_is_causal": True}):
            torch.testing.assert_close(compact(x, x, **arguments), model(x, x, **arguments), rtol=1e-4, atol=1e-4)
