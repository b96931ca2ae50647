"""From a budget to a rank for each layer. Pure arithmetic: no model, no tensors."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
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


def uniform_ranks(layers: Mapping[str, MatrixCost], keep: float) -> dict[str, int]:
    """The same fraction of the rank of every layer; the paper's pruning ratio p is 1 − keep."""
    return {name: uniform_rank(layer.full_rank, keep) for name, layer in layers.items()}


def uniform_keep(
    layers: Mapping[str, MatrixCost], budget: float, cost: Callable[[Mapping[str, int]], int], *, what: str
) -> float:
    """The uniform `keep` whose `cost(ranks)` comes closest to `budget` from below.

    `cost` must not fall as ranks grow. Ranks change only where s·keep is whole for some layer, so a bisection over these
    breakpoints finds the answer exactly. Raises ValueError naming the smallest cost there is if the budget is below it.
    """
    sizes = {layer.full_rank for layer in layers.values()}
    breakpoints: Sequence[float] = sorted({r / s for s in sizes for r in range(1, s + 1)})
    if not breakpoints:
        raise ValueError(
            "no layer of this network was chosen to be factorised: widen `include`, or check the plan's table"
        )
    if (smallest := cost(uniform_ranks(layers, 0.0))) > budget:
        raise ValueError(
            f"a budget of {budget:,.0f} {what} cannot be met: with every chosen layer at rank 1 the network still has "
            f"{smallest:,} {what}. Raise the budget or choose more layers."
        )
    index = bisect_right(breakpoints, budget, key=lambda keep: cost(uniform_ranks(layers, keep)))
    return breakpoints[max(0, index - 1)]
