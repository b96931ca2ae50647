"""The two thin layers that take the place of one."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from lrpet.layers.product import Product

_OF_INPUT = ("in_features", "in_channels")
_OF_OUTPUT = ("out_features", "out_channels", "bias", "groups")
_OF_BOTH = ("kernel_size", "stride", "padding", "dilation", "padding_mode")


class FactorPair(nn.Sequential):
    """Two plain layers, one after the other, in the place of one: W ≈ L·R, R first.

    The pair answers to `weight`, `bias`, `in_features` and further attributes as the replaced layer did, for code that asks
    a layer for its dtype, device or width. `weight` is multiplied out whenever something is computed with it.
    """

    __jit_unused_properties__: ClassVar = ["weight"]  # torch.jit.script compiles every other property

    @property
    def weight(self) -> Tensor:
        """Return L·R in the shape of the replaced layer's weight.

        Raises AttributeError for transposed pairs, whose product is not formed.
        """
        if isinstance(self[1], _ConvTransposeNd):
            raise AttributeError("the weight of a transposed pair is not formed: look at its two factors")
        first, second = self._weights()
        groups, (n, rank) = getattr(self[1], "groups", 1), second.shape[:2]
        kernel = second[0, 0].numel()  # columns of a spatial pair's kernel; else 1
        left, right = second.reshape(n, rank, kernel).mT.reshape(groups, -1, rank), first.reshape(groups, rank, -1)

        def form() -> Tensor:  # (groups, n/groups·columns, c·rows) → (n, c, rows, columns)
            return (left @ right).view(n, kernel, first.shape[1], -1).movedim(1, -1).reshape(shape)

        shape = (n, *first.shape[1:-1], kernel) if kernel > 1 else (n, *first.shape[1:])
        return Product.of(form, shape, like=second)

    def __getattr__(self, name: str) -> Any:
        if name in _OF_INPUT:
            return getattr(self[0], name)
        if name in _OF_OUTPUT:
            return getattr(self[1], name)
        if name in _OF_BOTH:  # where one of the two has the kernel, the other is 1×1
            first, second = getattr(self[0], name), getattr(self[1], name)
            return first if isinstance(first, str) else tuple(map(max, first, second))
        return super().__getattr__(name)

    @torch.no_grad()
    def fill_(self, left: Tensor, right: Tensor, bias: Tensor | None) -> None:
        """Set the factors to L, shape (groups, rows/groups, rank), and R, (groups, rank, columns), and the bias."""
        first, second = self._weights()
        first.copy_(right.reshape(first.shape))
        if isinstance(self[1], _ConvTransposeNd):
            second.copy_(left.mT.reshape(second.shape))
        else:  # (groups, n/groups·kernel, rank) → (n, rank, kernel)
            kernel = second[0, 0].numel()
            second.copy_(left.reshape(len(second), kernel, -1).mT.reshape(second.shape))
        if bias is not None:
            own = self[1].bias
            assert isinstance(own, Tensor)
            own.copy_(bias)

    def share_(self, owner: FactorPair) -> None:
        """Use the weights of another pair from now on; the bias stays this pair's own."""
        for mine, theirs in zip(self, owner, strict=True):
            mine.weight = theirs.weight

    def _weights(self) -> tuple[Tensor, Tensor]:
        first, second = (factor.weight for factor in self)
        assert isinstance(first, Tensor)
        assert isinstance(second, Tensor)
        return first, second
