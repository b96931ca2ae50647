"""What is decided for one layer."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields, replace
from fractions import Fraction
from typing import Any, get_args

from lrpet.layers.matrix import MatrixShape, Unfolding
from lrpet.planning.costs import MatrixCost


@dataclass(frozen=True)
class LayerPlan:
    """What is decided for one layer, and why. Costs are those of the example the plan was made with."""

    name: str
    kind: str
    """Class of the module, such as "Conv2d"."""
    rows: int
    columns: int
    """Shape of the weight as a matrix; 0 × 0 where the module has no such weight."""
    groups: int
    """Blocks of rows/groups rows that are matrices of their own: the groups of a convolution."""
    unfolding: Unfolding
    """How a convolution's kernel is divided between its factors, see `lrpet.layers.matrix`."""
    rank: int | None
    """Rank of the factors (of each group); None if the layer stays dense."""
    macs_dense: int
    macs: int
    """Multiply-adds before and after."""
    params_dense: int
    params: int
    """Parameters before and after."""
    batch_norm: str | None
    """The batch norm that is folded in when the layer is projected (rectification)."""
    reason: str
    """Why the layer is factorised, or why it stays dense."""
    counted: bool = True
    """Whether the layer is a convolution, linear or attention, which the counts in papers are of."""
    shares: str | None = None
    """The first layer that uses the same weight, if that is another one."""
    first_positions: int | None = None
    """Output positions of the first factor, if not those of the second: of spatial pairs."""
    extra_params: int = 0
    """Parameters besides weight and bias that the factors do without."""

    @property
    def shape(self) -> MatrixShape:
        """Return the shape of the weight as matrices."""
        return MatrixShape(self.rows, self.columns, self.groups)

    @property
    def cost(self) -> MatrixCost:
        """Return what the weight costs in this layer."""
        positions = Fraction(self.macs_dense, max(1, self.rows * self.columns))
        whole = int(positions) if positions.denominator == 1 else positions
        return MatrixCost(self.rows, self.columns, whole, self.groups, self.first_positions, self.extra_params)

    def at(self, rank: int, *, batch_norm: str | None, reason: str) -> LayerPlan:
        """Return this layer factorised at `rank`."""
        cost = self.cost
        saved = 0 if self.shares is not None else cost.params() - cost.params(rank)
        params, macs = self.params_dense - saved, cost.macs(rank)
        return replace(self, rank=rank, macs=macs, params=params, batch_norm=batch_norm, reason=reason)

    def dense(self, reason: str) -> LayerPlan:
        """Return this layer as it is, for a reason."""
        return replace(self, rank=None, macs=self.macs_dense, params=self.params_dense, batch_norm=None, reason=reason)

    @classmethod
    def from_dict(cls, entry: Any) -> LayerPlan:
        """Read what `dataclasses.asdict` gave. Raises ValueError if `entry` is not such a layer."""
        names = {field.name for field in fields(cls)}
        needed = {field.name for field in fields(cls) if field.default is MISSING}
        if not isinstance(entry, dict) or not needed <= entry.keys() <= names:
            raise ValueError(f"not a plan: a layer's entry must have the keys {', '.join(sorted(needed))}")
        layer = cls(**entry)
        texts = [
            layer.name,
            layer.kind,
            layer.reason,
            *(text for text in (layer.batch_norm, layer.shares) if text is not None),
        ]
        counts = ("rows", "columns", "groups", "macs_dense", "macs", "params_dense", "params", "extra_params")
        sizes = [getattr(layer, name) for name in counts]
        sizes += [] if layer.first_positions is None else [layer.first_positions]
        right = all(type(text) is str for text in texts) and all(type(size) is int and size >= 0 for size in sizes)
        if not right or type(layer.counted) is not bool:
            raise ValueError(f"not a plan: a value of the wrong type in the entry of layer {entry['name']!r}")
        if layer.unfolding not in get_args(Unfolding):
            raise ValueError(f"not a plan: layer {layer.name!r} has unfolding {layer.unfolding!r}")
        if layer.rank is not None and not (type(layer.rank) is int and 1 <= layer.rank <= layer.shape.full_rank):
            raise ValueError(f"not a plan: layer {layer.name!r} of {layer.shape} has rank {layer.rank!r}")
        return layer
