"""Multi-head attention whose four projections are modules of their own: what `nn.MultiheadAttention` becomes."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FactorizedAttention(nn.Module):
    """`nn.MultiheadAttention` with its packed projection taken apart into `q_proj`, `k_proj` and `v_proj`.

    Each of the four projections is an `nn.Linear`, or the two factors of one. Arguments and results of `forward` are those
    of `nn.MultiheadAttention`. Attention is computed by `scaled_dot_product_attention` unless its weights are wanted.

    Args:
        attention: Gives the width, the heads, the dropout, the layout and the training mode.
        q_proj: The projection of the query.
        k_proj: The projection of the key.
        v_proj: The projection of the value.
        out_proj: The projection of the attended values.
    """

    # nn.TransformerEncoderLayer reads these before it takes its fast path, which knows packed projections only.
    in_proj_weight = None
    in_proj_bias = None
    _qkv_same_embed_dim = False

    def __init__(
        self,
        attention: nn.MultiheadAttention,
        *,
        q_proj: nn.Module,
        k_proj: nn.Module,
        v_proj: nn.Module,
        out_proj: nn.Module,
    ) -> None:
        super().__init__()
        self.embed_dim = attention.embed_dim
        self.num_heads = attention.num_heads
        self.head_dim = attention.head_dim
        self.dropout = attention.dropout
        self.batch_first = attention.batch_first
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = q_proj, k_proj, v_proj, out_proj
        self.train(attention.training)

    @property
    def inputs(self) -> list[nn.Module]:
        """Return the projections of query, key and value."""
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
        """Attend as `nn.MultiheadAttention` does.

        Shapes are (L, N, E), or (N, L, E) if `batch_first`, or (L, E) without a batch.
        """
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
        """Return both masks as one that is added to the scores, broadcast to shape (batch, heads, L, S)."""
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
