"""A layer whose weight is seen as matrices: what every kind of layer has in common.

| kind                     | weight           | rows, columns of each of g groups   | its two factors                     |
|--------------------------|------------------|-------------------------------------|-------------------------------------|
| Linear                   | n, c             | n, c                                | c→r, r→n                            |
| TransformersConv1D       | c, n             | n, c                                | c→r, r→n, both Linear               |
| Convolution              | n, c/g, k…       | n/g, c/g·k…            ("channel")  | k… convolution c→g·r, 1… g·r→n      |
| SpatialConvolution       | n, c/g, kh, kw   | n/g·kw, c/g·kh         ("spatial")  | kh×1 convolution c→g·r, 1×kw g·r→n  |
| TransposedConvolution    | c, n/g, k…       | n/g·k…, c/g                         | 1… convolution c→g·r, transposed k… |
| StandardizedConvolution  | n, c/g, kh, kw   | n/g, c/g·kh·kw, standardised        | k… convolution c→g·r, 1… g·r→n      |
| AttentionInput           | 3·n, n (packed)  | n, n; g = 3: query, key and value   | n→r, r→n for each                   |
| AttentionOutput          | n, n             | n, n                                | n→r, r→n                            |

Groups of a convolution never mix, so each has a matrix of its own; in a depthwise convolution that is a single row.
`lrpet.layers.kinds` finds the class of a module.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lrpet.layers.batch_norm import row_scale
from lrpet.layers.factors import FactorPair

#: How a convolution's kernel is divided between the two factors; see the table above.
Unfolding = Literal["channel", "spatial"]
M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class MatrixShape:
    """The shape of a weight as matrices."""

    rows: int
    """Rows of all groups together."""
    columns: int
    groups: int = 1

    @property
    def full_rank(self) -> int:
        """Return the largest rank that each group can have."""
        return min(self.rows // max(1, self.groups), self.columns)

    def __str__(self) -> str:
        each = f"{self.rows // max(1, self.groups)}×{self.columns}"
        return each if self.groups == 1 else f"{self.groups} of {each}"


@dataclass(frozen=True)
class Call:
    """The shapes that one call of a layer took and gave."""

    inputs: tuple[torch.Size, ...]
    output: torch.Size


class MatrixLayer(ABC):
    """A module of a network whose weight is one matrix, or one matrix for each group.

    Args:
        module: The module that holds the weight.
        name: Its name in the network.
        batch_norm: The batch norm that folds into the layer at inference, if it is to be rectified.
    """

    unfolding: Unfolding = "channel"
    computed: bool = False
    """Whether the matrices are computed from the parameter, as a standardised weight is."""
    plain: tuple[type[nn.Module], ...] = ()
    """Classes whose forward this kind of layer knows; a subclass with another forward is refused."""
    parameter: str = "weight"
    """The name of the module's parameter that holds the weight."""
    equivalent: tuple[str, ...] = ()
    """Paths of subclasses whose own forward computes what the plain one does, or what the factors of this kind do."""

    def __init__(self, module: nn.Module, name: str = "", batch_norm: nn.Module | None = None) -> None:
        self.module: Any = module
        self.name = name
        self.batch_norm = batch_norm

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {self.shape})"

    @property
    def weight(self) -> Tensor:
        """Return the parameter that is projected."""
        weight: Tensor = self.module.weight
        return weight

    @property
    def bias(self) -> Tensor | None:
        """Return the bias that is added to the product with `weight`, if there is one."""
        bias: Tensor | None = self.module.bias
        return bias

    @cached_property
    def shape(self) -> MatrixShape:
        """Return the shape of the weight as matrices. A computed weight is looked at once: a look may change its buffers."""
        return self._shape()

    @abstractmethod
    def _shape(self) -> MatrixShape: ...

    @property
    def channels(self) -> int:
        """Return the number of output channels or features, which is that of the batch norm's numbers."""
        return self.shape.rows

    @abstractmethod
    def matrices(self, tensor: Tensor | None = None) -> Tensor:
        """Return the weight, or a tensor of its shape, as matrices of shape (groups, rows/groups, columns).

        The result is a view where strides allow it.
        """

    @abstractmethod
    def tensor(self, matrices: Tensor) -> Tensor:
        """Return matrices of shape (groups, rows/groups, columns) as a tensor of the weight's shape."""

    def write_(self, matrices: Tensor) -> None:
        """Set the weight to these matrices, unless they are a view of it."""
        if matrices.data_ptr() != self.weight.data_ptr():
            self.weight.copy_(self.tensor(matrices))

    def rows(self, channels: Tensor) -> Tensor:
        """Return a number for each channel, shape (n,), as one for each row, shape (groups, rows/groups)."""
        times = self.shape.rows // len(channels)
        return channels[:, None].expand(-1, times).reshape(self.shape.groups, -1)

    def row_scale(self) -> Tensor | None:
        """Return the batch norm's α for each row, shape (groups, rows/groups); None without a batch norm."""
        return None if self.batch_norm is None else self.rows(row_scale(self.batch_norm))

    def folded(self, dtype: torch.dtype) -> Tensor:
        """Return the matrices with the batch norm folded in, diag(α)·W, detached and in this precision."""
        matrices, alpha = self.matrices().detach().to(dtype), self.row_scale()
        return matrices if alpha is None else alpha.to(dtype)[..., None] * matrices

    @abstractmethod
    def positions(self, call: Call) -> int | Fraction:
        """Return the output positions of a call: pixels or tokens, times the batch, at which every weight is used once."""

    def first_positions(self, call: Call) -> int | Fraction:
        """Return the positions at which the first factor is applied, `positions` unless the kind says otherwise."""
        return self.positions(call)

    def row_outputs(self, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Return what every row of the matrices gives in a call, shape (groups, positions, rows/groups): y = W·x, no bias.

        Args:
            inputs: What the host took.
            output: What it gave. Most kinds have no need of it.
        """
        first: Any = self.empty_factors(self.shape.rows // self.shape.groups)[0]
        first.weight.copy_(self.matrices().reshape(first.weight.shape))
        rows: Tensor = first(inputs[0])
        if rows.dim() > 2 and not isinstance(first, nn.Linear):
            rows = rows.movedim(-1 - len(self.module.kernel_size), -1)
        return rows.reshape(-1, self.shape.groups, self.shape.rows // self.shape.groups).transpose(0, 1)

    @property
    def extra_params(self) -> int:
        """Return the number of parameters besides weight and bias, which the factors do without."""
        return 0

    def tensors(self) -> list[Tensor]:
        """Return the weights and biases of the module, computed ones included."""
        return [tensor for tensor in (self.module.weight, self.module.bias) if isinstance(tensor, Tensor)]

    def refusal(self) -> str | None:
        """Say why the layer cannot be projected and factorised; None if it can."""
        if parametrize.is_parametrized(self.module) or self.parameter not in self.module._parameters:
            return "its weight is computed by a parametrization"
        if self.has_own_forward():
            return f"{type(self.module).__name__} has a forward of its own"
        if (peculiarity := self._peculiarity()) is not None:
            return peculiarity
        if not self.weight.is_floating_point():
            return "its weight is not a floating-point tensor"
        if not self.weight.numel():
            return "its weight is empty"
        if self.shape.groups > 1 and self.shape.full_rank == 1:
            return "depthwise: each group's matrix has rank 1 already"
        return None

    def _peculiarity(self) -> str | None:
        """Say what else stands in the way, in a kind that knows something."""
        return None

    def has_own_forward(self) -> bool:
        """Tell whether the module computes something else than the plain class of this kind."""
        if "forward" in vars(self.module):
            return True
        kind = type(self.module)
        if path_of(kind) in self.equivalent:
            return False
        base = next((base for base in self.plain if isinstance(self.module, base)), None)
        return base is not None and any(
            getattr(kind, method, None) is not getattr(base, method, None) for method in ("forward", "_conv_forward")
        )

    # What takes the module's place in the compact network.

    @property
    def host(self) -> str:
        """Return the name of the module that is replaced: this one's, or that of the attention that runs it."""
        return self.name

    @property
    def host_module(self) -> nn.Module:
        """Return the module that is replaced."""
        module: nn.Module = self.module
        return module

    def replacement(self, ranks: Mapping[str, int]) -> nn.Module:
        """Return what takes the host's place at {layer name: rank}, its factors not yet initialised.

        Dtype, device, training mode and `requires_grad` are those of the host.
        """
        return self.empty_factors(ranks[self.name])

    @abstractmethod
    def empty_factors(self, rank: int) -> FactorPair:
        """Return factors of this rank, not yet initialised; see the table in `lrpet.layers.matrix`."""

    def pairs(self, replacement: nn.Module) -> list[FactorPair]:
        """Return this layer's factor pairs in what took the host's place."""
        assert isinstance(replacement, FactorPair)
        return [replacement]

    @torch.no_grad()
    def fill_(self, replacement: nn.Module, left: Tensor, right: Tensor) -> None:
        """Set the factors to L, shape (groups, rows/groups, rank), and R, (groups, rank, columns), and the bias."""
        pairs = self.pairs(replacement)
        biases = [None] * len(pairs) if self.bias is None else self.bias.chunk(len(pairs))
        chunks = zip(pairs, left.chunk(len(pairs)), right.chunk(len(pairs)), biases, strict=True)
        for pair, left_part, right_part, bias in chunks:
            pair.fill_(left_part, right_part, bias)

    def _paired(self, first: nn.Module, second: nn.Module) -> FactorPair:
        """Return a pair in the module's mode that requires gradients where the module's parameters do."""
        pair = FactorPair(first, second).train(self.module.training)
        for factor in pair:
            assert isinstance(factor.weight, Tensor)
            factor.weight.requires_grad_(self.weight.requires_grad)
        if isinstance(second.bias, Tensor) and self.bias is not None:
            second.bias.requires_grad_(self.bias.requires_grad)
        return pair

    def _like(self) -> dict[str, Any]:
        return {"device": self.weight.device, "dtype": self.weight.dtype}


def path_of(kind: type) -> str:
    """Return a class's full name, such as "torch.nn.modules.linear.Linear"."""
    return f"{kind.__module__}.{kind.__qualname__}"


def uninitialised(kind: type[M], *args: Any, device: torch.device, dtype: torch.dtype, **kwargs: Any) -> M:
    """Make a module whose parameters are not initialised; its class need not know the arguments `device` and `dtype`."""
    with torch.device("meta"):
        module = kind(*args, **kwargs)
    return module.to(dtype=dtype).to_empty(device=device)
