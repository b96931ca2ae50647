"""What was asked of a plan, kept so that the budget can be divided again by trained weights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol, get_args

from torch import nn

from lrpet.planning.budget import Budget
from lrpet.planning.layer_plan import LayerPlan
from lrpet.planning.limits import Limits
from lrpet.planning.times import Times

#: How a budget is divided among the layers; see `lrpet.plan`.
Allocator = Literal["auto", "uniform", "energy", "threshold", "sensitivity"]


class Worths(Protocol):
    """Finds what the singular values of every layer of a plan are worth to the loss."""

    def __call__(self, model: nn.Module, plan: Any) -> dict[str, list[float]]:
        """Return {layer name: worth of its 1st, 2nd, … singular value}."""
        ...


@dataclass(frozen=True)
class Request:
    """A budget, the limits of ranks, and the layers that it is divided among."""

    budget: Budget
    limits: Limits
    allocate: str
    """One of `Allocator`, or "given" for worths or ratios of the caller's own."""
    rectify: bool
    candidates: Mapping[str, int | None]
    """{first layer that uses a weight: rank that it must have, or None where the allocator decides}."""
    batch_norms: Mapping[str, str]
    """{candidate: the batch norm that folds into it}."""
    unpaired: Mapping[str, str]
    """{candidate: why the batch norm that takes its output does not fold into it}."""
    times: Times | None = field(default=None, compare=False, repr=False)
    worths: Worths | None = field(default=None, compare=False, repr=False)

    @property
    def by_weights(self) -> bool:
        """Whether the division depends on the weights, so that it is worth repeating once they are trained."""
        return self.allocate in ("auto", "energy", "threshold", "sensitivity") and bool(self.budget.divisible)

    def users(self, layers: Iterable[LayerPlan]) -> dict[str, list[LayerPlan]]:
        """Return {candidate: the layers that use its weight}."""
        users: dict[str, list[LayerPlan]] = defaultdict(list)
        for layer in layers:
            owner = layer.shares or layer.name
            if owner in self.candidates:
                users[owner].append(layer)
        return users

    def to_dict(self) -> dict[str, Any] | None:
        """Return plain values; None where it holds something that a file cannot, such as measured times."""
        if self.times is not None or not self.by_weights:
            return None
        return {
            "budget": self.budget.divisible,
            "limits": asdict(self.limits),
            "allocate": self.allocate,
            "rectify": self.rectify,
            "candidates": dict(self.candidates),
            "batch_norms": dict(self.batch_norms),
            "unpaired": dict(self.unpaired),
        }

    @classmethod
    def from_dict(cls, data: Any) -> Request:
        """Read what `to_dict` gave. Raises ValueError if `data` is no such request."""
        kinds = {
            "budget": dict, "limits": dict, "allocate": str, "rectify": bool, "candidates": dict, "batch_norms": dict,
            "unpaired": dict,
        }  # fmt: skip
        if not isinstance(data, dict) or data.keys() != kinds.keys():
            raise ValueError(f"not a plan: its request must have exactly the keys {', '.join(kinds)}")
        for name, kind in kinds.items():
            if not isinstance(data[name], kind):
                raise ValueError(f"not a plan: {name} of its request must be {kind.__name__}; got {data[name]!r}")
        if data["allocate"] not in get_args(Allocator):
            raise ValueError(f"not a plan: its request has allocate={data['allocate']!r}")
        try:
            return cls(**{**data, "budget": Budget(**data["budget"]), "limits": Limits(**data["limits"])})
        except TypeError as error:
            raise ValueError(f"not a plan: its request does not fit ({error})") from None
