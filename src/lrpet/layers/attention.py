"""Multi-head attention with factorised projections: what `nn.MultiheadAttention` becomes."""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lrpet.layers.factors import empty_factors


class FactorizedAttention(nn.Module):
    """`nn.MultiheadAttention` with its packed projection taken apart into `q_proj`, `k_proj` and `v_proj`.

    Each of the four projections is an `nn.Linear`, or the two factors of one. Arguments and results of `forward` are those
    of `nn.MultiheadAttention`; attention itself is `scaled_dot_product_attention` unless its weights are wanted.
    """

    # What nn.TransformerEncoderLayer asks its attention before it takes the fast path, which knows only packed projections.
    in_proj_weight = None
    in_proj_bias = None
    _qkv_same_embed_dim = False

    def __init__(self, attention: nn.MultiheadAttention, rank: int | None, out_rank: int | None) -> None:
        """Like `attention` in dtype, device, mode and requires_grad. Where a rank is given, factors, uninitialised; where it
        is None, the dense projection."""
        super().__init__()
        self.embed_dim = attention.embed_dim
        self.num_heads = attention.num_heads
        self.head_dim = attention.head_dim
        self.dropout = attention.dropout
        self.batch_first = attention.batch_first
        packed = _unpacked(attention)
        self.q_proj, self.k_proj, self.v_proj = (_projection(each, rank) for each in packed)
        self.out_proj = _projection(attention.out_proj, out_rank)
        self.train(attention.training)

    @property
    def inputs(self) -> list[nn.Module]:
        """The projections of query, key and value."""
        return [self.q_proj, self.k_proj, self.v_proj]

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As `nn.MultiheadAttention.forward`: shapes (L, N, E), (N, L, E) if `batch_first`, or (L, E) without a batch."""
        if is_causal and attn_mask is None:
            raise ValueError("is_causal=True is a hint about attn_mask, which must be given with it")
        batched, batch_first = query.dim() == 3, self.batch_first
        if not batched:
            query, key, value = (x[None] for x in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask[None]
        elif not batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        q, k, v = (
            self._heads(projection(x))
            for projection, x in ((self.q_proj, query), (self.k_proj, key), (self.v_proj, value))
        )
        mask = self._mask(attn_mask, key_padding_mask, q)
        p = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = q @ k.mT / math.sqrt(self.head_dim)
            weights = F.dropout((scores if mask is None else scores + mask).softmax(-1), p)
            attended = weights @ v
            weights = weights.mean(1) if average_attn_weights else weights
            weights = weights if batched else weights[0]
        else:
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=p)
        result = self.out_proj(attended.transpose(1, 2).flatten(2))
        if not batched:
            return result[0], weights
        return (result if batch_first else result.transpose(0, 1)), weights

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], self.num_heads, self.head_dim).transpose(1, 2)

    def _mask(self, attn_mask: Tensor | None, key_padding_mask: Tensor | None, q: Tensor) -> Tensor | None:
        """Both masks as one that is added to the scores, broadcast to shape (batch, heads, L, S)."""
        masks = []
        if attn_mask is not None:
            masks.append(
                attn_mask if attn_mask.dim() == 2 else attn_mask.view(-1, self.num_heads, *attn_mask.shape[1:])
            )
        if key_padding_mask is not None:
            masks.append(key_padding_mask[:, None, None, :])
        added = [
            torch.zeros_like(mask, dtype=q.dtype).masked_fill(mask, -torch.inf)
            if mask.dtype == torch.bool
            else mask.to(q.dtype)
            for mask in masks
        ]
        return sum(added[1:], added[0]) if added else None


def _unpacked(attention: nn.MultiheadAttention) -> list[nn.Linear]:
    """Query, key and value as linears with copies of their parts of the packed weight and bias."""
    weight, bias, width = attention.in_proj_weight, attention.in_proj_bias, attention.embed_dim
    linears = []
    for i in range(3):
        linear = nn.Linear(width, width, bias=bias is not None, device="meta")
        part = slice(i * width, (i + 1) * width)
        linear.weight = nn.Parameter(weight[part].detach().clone(), requires_grad=weight.requires_grad)
        if bias is not None:
            linear.bias = nn.Parameter(bias[part].detach().clone(), requires_grad=bias.requires_grad)
        linears.append(linear)
    return linears


def _projection(linear: nn.Linear, rank: int | None) -> nn.Module:
    return copy.deepcopy(linear) if rank is None else empty_factors(linear, rank)
