"""The two layers of an `nn.MultiheadAttention`: its packed input projection, and the output projection it runs itself."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from lrpet.layers.factorized_attention import FactorizedAttention
from lrpet.layers.factors import FactorPair
from lrpet.layers.linear import Linear
from lrpet.layers.matrix import Call, MatrixLayer, MatrixShape


class AttentionInput(MatrixLayer):
    """The packed projection of query, key and value: three matrices of width × width."""

    plain = (nn.MultiheadAttention,)
    parameter = "in_proj_weight"

    @property
    def weight(self) -> Tensor:
        """Return the packed weight."""
        weight: Tensor = self.module.in_proj_weight
        return weight

    @property
    def bias(self) -> Tensor | None:
        """Return the packed bias."""
        bias: Tensor | None = self.module.in_proj_bias
        return bias

    def _shape(self) -> MatrixShape:
        """Return three groups of width rows; 0 × 0 where the weight is not packed."""
        width = self.module.embed_dim
        return MatrixShape(3 * width, width, 3) if self.module._qkv_same_embed_dim else MatrixShape(0, 0)

    def matrices(self, tensor: Tensor | None = None) -> Tensor:
        """Return the weights of query, key and value, shape (3, width, width)."""
        return (self.weight if tensor is None else tensor).view(3, -1, self.shape.columns)

    def tensor(self, matrices: Tensor) -> Tensor:
        """Return the packed weight again."""
        return matrices.reshape(self.weight.shape)

    def positions(self, call: Call) -> Fraction:
        """Return the mean number of tokens of query, key and value."""
        return Fraction(sum(tokens[:-1].numel() for tokens in call.inputs), 3)

    def row_outputs(self, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Return queries, keys and values, shape (3, tokens, width); these may be of different numbers of tokens."""
        tokens = [each.reshape(-1, self.shape.columns) for each in inputs[:3]]
        most = max(map(len, tokens))
        # Fewer tokens, of memory or of a prompt, weigh more: each of the three has an equal sum of weights.
        rows = [(most / len(x)) ** 0.5 * (x @ weight.mT) for x, weight in zip(tokens, self.matrices(), strict=True)]
        return torch.stack([nn.functional.pad(each, (0, 0, 0, most - len(each))) for each in rows])

    def tensors(self) -> list[Tensor]:
        """Return the attention's own parameters, without those of its output projection."""
        return [parameter for parameter in self.module._parameters.values() if parameter is not None]

    def _peculiarity(self) -> str | None:
        return _unusual(self.module)

    def replacement(self, ranks: Mapping[str, int]) -> nn.Module:
        """Return a `FactorizedAttention` with factors for the layers that have a rank, and dense projections else."""
        return _factorized(self.module, self.name, ranks)

    def empty_factors(self, rank: int) -> FactorPair:
        """Return two linears for one of query, key and value."""
        return Linear(_unpacked(self.module)[0]).empty_factors(rank)

    def pairs(self, replacement: nn.Module) -> list[FactorPair]:
        """Return the pairs of query, key and value."""
        assert isinstance(replacement, FactorizedAttention)
        return [pair for pair in replacement.inputs if isinstance(pair, FactorPair)]


class AttentionOutput(Linear):
    """The output projection, which the attention runs itself, by its weight.

    Args:
        module: The `out_proj` of the attention.
        name: Its name in the network, which is that of the attention and ".out_proj".
        attention: The attention that runs it.
    """

    def __init__(self, module: nn.Module, name: str, attention: nn.MultiheadAttention) -> None:
        super().__init__(module, name)
        self.attention = attention

    def positions(self, call: Call) -> int:
        """Return the number of query tokens."""
        return call.inputs[0][:-1].numel()

    def row_outputs(self, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Return what the attention gave, without the bias, shape (1, tokens, width)."""
        rows = output if self.bias is None else output - self.bias
        return rows.reshape(1, -1, self.shape.rows)

    def refusal(self) -> str | None:
        """Say why the layer cannot be projected and factorised; None if it can."""
        if AttentionInput(self.attention).has_own_forward():
            return f"{type(self.attention).__name__}, which runs it, has a forward of its own"
        return super().refusal()

    def _peculiarity(self) -> str | None:
        return _unusual(self.attention)

    @property
    def host(self) -> str:
        """Return the name of the attention."""
        return self.name.rpartition(".")[0]

    @property
    def host_module(self) -> nn.Module:
        """Return the attention."""
        return self.attention

    def replacement(self, ranks: Mapping[str, int]) -> nn.Module:
        """Return a `FactorizedAttention` with factors for the layers that have a rank, and dense projections else."""
        return _factorized(self.attention, self.host, ranks)

    def pairs(self, replacement: nn.Module) -> list[FactorPair]:
        """Return the pair of the output projection."""
        assert isinstance(replacement, FactorizedAttention)
        assert isinstance(replacement.out_proj, FactorPair)
        return [replacement.out_proj]


def attended(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Return query, key and value of a call of an attention, in this order, however they were passed."""
    given = dict(zip(("query", "key", "value"), args, strict=False)) | dict(kwargs)
    return given["query"], given["key"], given["value"]


def output_name(attention: str) -> str:
    """Return the name of an attention's output projection."""
    return f"{attention}.out_proj" if attention else "out_proj"


def _unusual(attention: nn.MultiheadAttention) -> str | None:
    if not attention._qkv_same_embed_dim:
        return "its query, key and value have different widths"
    if attention.bias_k is not None or attention.add_zero_attn:
        return "it adds a key and a value of its own (add_bias_kv, add_zero_attn)"
    return None


def _factorized(attention: nn.MultiheadAttention, name: str, ranks: Mapping[str, int]) -> FactorizedAttention:
    rank, out_rank = ranks.get(name), ranks.get(output_name(name))
    q, k, v = (linear if rank is None else Linear(linear).empty_factors(rank) for linear in _unpacked(attention))
    out: nn.Module = (
        copy.deepcopy(attention.out_proj) if out_rank is None else Linear(attention.out_proj).empty_factors(out_rank)
    )
    return FactorizedAttention(attention, q_proj=q, k_proj=k, v_proj=v, out_proj=out)


def _unpacked(attention: nn.MultiheadAttention) -> list[nn.Linear]:
    """Return query, key and value as linears with copies of their parts of the packed weight and bias."""
    weight, bias, width = attention.in_proj_weight, attention.in_proj_bias, attention.embed_dim
    linears = []
    for i in range(3):
        linear = nn.Linear(width, width, bias=bias is not None, device="meta").train(attention.training)
        part = slice(i * width, (i + 1) * width)
        linear.weight = nn.Parameter(weight[part].detach().clone(), requires_grad=weight.requires_grad)
        if bias is not None:
            linear.bias = nn.Parameter(bias[part].detach().clone(), requires_grad=bias.requires_grad)
        linears.append(linear)
    return linears
