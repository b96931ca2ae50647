"""Ranks of one layer, and what they cost. Pure arithmetic: no model, no tensors."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class MatrixCost:
    """The shape of a layer's matrix and how many output positions it is applied at."""

    rows: int
    columns: int
    positions: int | Fraction
    groups: int = 1
    """Blocks of rows/groups rows that are matrices, and are factorised, each by itself."""
    first_positions: int | Fraction | None = None
    """Positions that the first factor, of rank × columns, is applied at, if others than the second."""

    @property
    def full_rank(self) -> int:
        """The largest rank this matrix, or each block of it, can have."""
        return min(self.rows // self.groups, self.columns)

    def params(self, rank: int | None = None) -> int:
        """Weights of the dense matrix, or of its two factors at `rank`: r·(rows + groups·columns)."""
        return self.rows * self.columns if rank is None else rank * (self.rows + self.groups * self.columns)

    def macs(self, rank: int | None = None) -> int:
        """Multiply-adds: every weight is used once at every position."""
        if rank is None:
            return int(self.positions * self.rows * self.columns)
        first = self.positions if self.first_positions is None else self.first_positions
        return int(rank * (self.positions * self.rows + first * self.groups * self.columns))

    def saves(self, rank: int) -> bool:
        """Whether the factors cost less than the dense matrix."""
        return self.params(rank) < self.params() and (self.macs(rank) < self.macs() or not self.macs())


def uniform_rank(full_rank: int, keep: float) -> int:
    """r = max(1, ⌊s·keep⌋), with the floor guarded against float noise (0.29·100 is 28.999999999999996)."""
    return max(1, min(full_rank, math.floor(full_rank * keep + 1e-9 * max(1.0, full_rank * keep))))


def allowed_ranks(
    full_rank: int, *, min_rank: int = 1, max_rank: int | None = None, multiple_of: int = 1
) -> tuple[int, ...]:
    """The ranks of a layer within these limits, ascending; limits that its full rank cannot meet do not hold for it."""
    low, high = min(min_rank, full_rank), full_rank if max_rank is None else min(max_rank, full_rank)
    step = multiple_of if high // multiple_of * multiple_of >= low else 1
    return tuple(rank for rank in range(low, high + 1) if rank % step == 0)


def nearest_rank(allowed: Sequence[int], wanted: int) -> int:
    """The largest of the `allowed` ranks, which ascend, up to `wanted`; the smallest if all are above."""
    return allowed[max(0, bisect_right(allowed, wanted) - 1)]
