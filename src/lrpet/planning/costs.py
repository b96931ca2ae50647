"""What one matrix costs, dense and at each rank. Pure arithmetic: no model, no tensors."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class MatrixCost:
    """The shape of a layer's matrix, and the output positions that it is applied at."""

    rows: int
    columns: int
    positions: int | Fraction
    groups: int = 1
    """Blocks of rows/groups rows that are matrices, and are factorised, each by itself."""
    first_positions: int | Fraction | None = None
    """Positions that the first factor, of rank × columns, is applied at, if not those of the second."""
    extra_params: int = 0
    """Parameters besides the weight that the factors do without."""

    @property
    def full_rank(self) -> int:
        """Return the largest rank that the matrix, or each block of it, can have."""
        return min(self.rows // self.groups, self.columns)

    def params(self, rank: int | None = None) -> int:
        """Return the weights of the dense matrix, or of its two factors: r·(rows + groups·columns)."""
        if rank is None:
            return self.rows * self.columns + self.extra_params
        return rank * (self.rows + self.groups * self.columns)

    def macs(self, rank: int | None = None) -> int:
        """Return the multiply-adds: every weight is used once at every position."""
        if rank is None:
            return int(self.positions * self.rows * self.columns)
        first = self.positions if self.first_positions is None else self.first_positions
        return int(rank * (self.positions * self.rows + first * self.groups * self.columns))

    def saves(self, rank: int) -> bool:
        """Whether the factors cost less than the dense matrix."""
        return self.params(rank) < self.params() and (self.macs(rank) < self.macs() or not self.macs())


def uniform_rank(full_rank: int, keep: float) -> int:
    """Return r = max(1, ⌊s·keep⌋), the floor guarded against rounding (0.29·100 is 28.999999999999996)."""
    return max(1, min(full_rank, math.floor(full_rank * keep + 1e-9 * max(1.0, full_rank * keep))))


def nearest_rank(allowed: Sequence[int], wanted: int) -> int:
    """Return the largest of the allowed ranks, which ascend, up to `wanted`; the smallest if all are above."""
    return allowed[max(0, bisect_right(allowed, wanted) - 1)]
