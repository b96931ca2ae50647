"""Plan: the one decision of what happens to every layer. Frozen, printable, serialisable."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from torch import nn

from lrpet.layers.batch_norm import can_rectify
from lrpet.layers.kinds import layer_of, layers_of, refusal_of
from lrpet.layers.matrix import MatrixLayer
from lrpet.layers.wrapping import unwrapped
from lrpet.planning.layer_plan import LayerPlan
from lrpet.planning.request import Request
from lrpet.planning.table import change, rendered
from lrpet.planning.times import Timing

FORMAT = 2
#: Formats that are read. Format 1 knew no totals of the network, and no request.
READABLE = (1, 2)
#: A summary has one count only where convolutions and linears make up this fraction of the whole network.
SAME_FROM = 0.98


@dataclass(frozen=True, repr=False)
class Plan:
    """What becomes of every layer, in the order the network uses them. Made by `lrpet.plan`."""

    layers: tuple[LayerPlan, ...]
    budget: str
    """What was asked for and how it was divided, such as "keep=0.43"."""
    totals: Mapping[str, int] = field(default_factory=dict, hash=False)
    """{"macs", "params" and "bytes": what the whole dense network costs}; empty in plans of format 1."""
    request: Request | None = field(default=None, hash=False)
    """What was asked for, where the budget is to be divided again by trained weights; None once that is settled."""
    timing: Timing | None = None
    """What one pass takes, where layers were measured."""

    @property
    def ranks(self) -> dict[str, int]:
        """Return {layer name: rank} of the layers that are factorised."""
        return {layer.name: layer.rank for layer in self.layers if layer.rank is not None}

    @property
    def macs(self) -> int:
        """Return the multiply-adds of the compact network, attention's products included."""
        return self.macs_dense - sum(layer.macs_dense - layer.macs for layer in self.layers)

    @property
    def macs_dense(self) -> int:
        """Return the multiply-adds of the dense network, attention's products included."""
        return self.totals.get("macs", self.layer_macs_dense)

    @property
    def params(self) -> int:
        """Return all parameters of the compact network, shared ones once."""
        return self.params_dense - sum(layer.params_dense - layer.params for layer in self.layers)

    @property
    def params_dense(self) -> int:
        """Return all parameters of the dense network, shared ones once."""
        return self.totals.get("params", self.layer_params_dense)

    @property
    def layer_macs(self) -> int:
        """Return the multiply-adds of the compact network's convolutions and linears, the count that papers print."""
        return sum(layer.macs for layer in self.layers)

    @property
    def layer_macs_dense(self) -> int:
        """Return the multiply-adds of the dense network's convolutions and linears, the count that papers print."""
        return sum(layer.macs_dense for layer in self.layers)

    @property
    def layer_params(self) -> int:
        """Return the weights and biases of the compact network's convolutions and linears, as papers count."""
        return sum(layer.params for layer in self.layers if layer.counted)

    @property
    def layer_params_dense(self) -> int:
        """Return the weights and biases of the dense network's convolutions and linears, as papers count."""
        return sum(layer.params_dense for layer in self.layers if layer.counted)

    def settled(self) -> Plan:
        """Return this plan with its ranks for good: the budget is not divided again by trained weights."""
        return replace(self, request=None)

    def bind(self, model: nn.Module) -> dict[str, MatrixLayer]:
        """Return {name: layer} of the layers of `model` that this plan factorises, with the batch norms they fold in.

        Wrappers of torch.compile, data parallelism and moving averages are seen through. Raises ValueError if `model` is
        another network than the plan was made for.
        """
        model = unwrapped(model)
        layers, modules = layers_of(model), dict(model.named_modules())
        return {
            planned.name: _bound(planned, layers, modules, type(model).__name__)
            for planned in self.layers
            if planned.rank is not None
        }

    def to_json(self) -> str:
        """Return this plan as JSON text; `Plan.from_json` reads it back."""
        return json.dumps(self.to_dict(), indent=1)

    def to_dict(self) -> dict[str, Any]:
        """Return this plan as plain values. A request with measured times is left out: the plan is settled then."""
        request = None if self.request is None else self.request.to_dict()
        return {
            "format": FORMAT,
            "budget": self.budget,
            "totals": dict(self.totals),
            "request": request,
            "layers": [asdict(layer) for layer in self.layers],
        } | ({} if self.timing is None else {"timing": self.timing.to_dict()})

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read what `to_json` wrote. Raises ValueError if `text` is not such a plan."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"not a plan: the text is not JSON ({error})") from None
        return cls.from_dict(data)

    @classmethod
    def from_dict(cls, data: Any) -> Plan:
        """Read what `to_dict` gave, of this format or an earlier one. Raises ValueError if `data` is not such a plan."""
        if not isinstance(data, dict) or not {"format", "budget", "layers"} <= data.keys():
            raise ValueError("not a plan: expected an object with the keys format, budget and layers")
        if data["format"] not in READABLE:
            formats = " and ".join(map(str, READABLE))
            raise ValueError(f"this plan has format {data['format']!r}; this version of lrpet reads formats {formats}")
        if not isinstance(data["layers"], list):
            raise ValueError("not a plan: layers must be a list")
        request, timing = data.get("request"), data.get("timing")
        return cls(
            layers=tuple(LayerPlan.from_dict(entry) for entry in data["layers"]),
            budget=str(data["budget"]),
            totals=_read_totals(data.get("totals", {})),
            request=None if request is None else Request.from_dict(request),
            timing=None if timing is None else Timing.from_dict(timing),
        )

    def __str__(self) -> str:
        return self.table()

    def __repr__(self) -> str:
        return f"Plan({self.summary()})"

    def table(self, width: int | None = None) -> str:
        """Return a table of all layers with the totals below it, its lines shortened to `width` characters if given."""
        return "\n".join(
            [*rendered(self.layers, width, macs=self.macs_dense, params=self.params_dense), "", self.summary()]
        )

    def summary(self) -> str:
        """Return the totals in one line: of the whole network, and of its convolutions and linears where that differs."""
        parts = [
            change(self.macs_dense, self.macs, "multiply-adds"),
            change(self.params_dense, self.params, "parameters"),
        ]
        counted = self.layer_macs_dense / max(1, self.macs_dense), self.layer_params_dense / max(1, self.params_dense)
        if min(counted) < SAME_FROM:
            macs = change(self.layer_macs_dense, self.layer_macs, "multiply-adds")
            parts.append(
                f"convolutions and linears alone: {macs}, "
                f"{change(self.layer_params_dense, self.layer_params, 'parameters')}"
            )
        if self.timing is not None:
            parts.append(str(self.timing))
        return f"{self.budget}: {len(self.ranks)} of {len(self.layers)} layers factorised; {'; '.join(parts)}"


def _bound(
    planned: LayerPlan, layers: Mapping[str, MatrixLayer], modules: Mapping[str, nn.Module], network: str
) -> MatrixLayer:
    module = modules.get(planned.name)
    if module is None:
        raise ValueError(
            f"the plan factorises {planned.name!r}, which this {network} does not have: "
            "was the plan made for another network, or before it was renamed?"
        )
    layer = layers.get(planned.name)
    if layer is not None and planned.unfolding != layer.unfolding:
        layer = layer_of(module, planned.name, unfolding=planned.unfolding)
    if layer is None or (why := layer.refusal()) is not None:
        why = refusal_of(module, layer)
        raise ValueError(f"the plan factorises {planned.name!r}, but in this model {why}")
    if layer.shape != planned.shape:
        raise ValueError(
            f"the plan expects {planned.name!r} to be {planned.shape} as a matrix, but in this model it is {layer.shape}: "
            "was the plan made for another network?"
        )
    if planned.batch_norm is not None:
        norm = modules.get(planned.batch_norm)
        if norm is None or not can_rectify(norm) or len(norm.running_var) != layer.channels:  # type: ignore[arg-type]
            raise ValueError(
                f"the plan rectifies {planned.name!r} with the batch norm {planned.batch_norm!r}, which this model lacks"
            )
        layer.batch_norm = norm
    return layer


def _read_totals(data: Any) -> dict[str, int]:
    if not isinstance(data, dict) or not all(type(value) is int and value >= 0 for value in data.values()):
        raise ValueError(f"not a plan: totals must be whole numbers by unit; got {data!r}")
    return data
