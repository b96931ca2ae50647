"""Plan: the one decision, taken once, of what happens to every layer. Frozen, printable, serialisable."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any, get_args

from torch import nn

from lrpet.layers.matrix import Shape, Unfolding, can_rectify, channels_of, row_scale, shape_of, unsupported

FORMAT = 1


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
    """Weights and biases before and after."""
    batch_norm: str | None
    """The batch norm that is folded in when the layer is projected (rectification)."""
    reason: str
    """Why the layer is factorised, or why it stays dense."""

    @property
    def shape(self) -> Shape:
        """Shape of the weight as matrices."""
        return Shape(self.rows, self.columns, self.groups)


@dataclass(frozen=True)
class Plan:
    """Every layer's fate, in the order the network uses them. Made by `lrpet.plan`."""

    layers: tuple[LayerPlan, ...]
    budget: str
    """What was asked for, such as "keep=0.43"."""

    @property
    def ranks(self) -> dict[str, int]:
        """{layer name: rank} of the layers that are factorised."""
        return {layer.name: layer.rank for layer in self.layers if layer.rank is not None}

    @property
    def macs(self) -> int:
        """Multiply-adds of all convolutions and linears of the compact network, factorised or not."""
        return sum(layer.macs for layer in self.layers)

    @property
    def macs_dense(self) -> int:
        """Multiply-adds of all convolutions and linears of the dense network."""
        return sum(layer.macs_dense for layer in self.layers)

    @property
    def params(self) -> int:
        """Weights and biases of all convolutions and linears of the compact network, factorised or not."""
        return sum(layer.params for layer in self.layers)

    @property
    def params_dense(self) -> int:
        """Weights and biases of all convolutions and linears of the dense network."""
        return sum(layer.params_dense for layer in self.layers)

    def modules(self, model: nn.Module) -> dict[str, nn.Module]:
        """The modules of `model` that this plan factorises, by name. Raises ValueError if `model` is another network."""
        found: dict[str, nn.Module] = {}
        modules = dict(model.named_modules())
        for layer in self.layers:
            if layer.rank is None:
                continue
            module = modules.get(layer.name)
            if module is None:
                raise ValueError(
                    f"the plan factorises {layer.name!r}, which this {type(model).__name__} does not have: "
                    "was the plan made for another network, or before it was wrapped or renamed?"
                )
            if (why := unsupported(module)) is not None:
                raise ValueError(f"the plan factorises {layer.name!r}, but in this model {why}")
            shape = shape_of(module, layer.unfolding)
            if shape != layer.shape:
                raise ValueError(
                    f"the plan expects {layer.name!r} to be {layer.shape} as a matrix, but in this model it is {shape}: "
                    "was the plan made for another network?"
                )
            if layer.batch_norm is not None:
                norm = modules.get(layer.batch_norm)
                if norm is None or not can_rectify(norm) or len(row_scale(norm)) != channels_of(module):
                    raise ValueError(
                        f"the plan rectifies {layer.name!r} with the batch norm {layer.batch_norm!r}, which this model lacks"
                    )
            found[layer.name] = module
        return found

    def to_json(self) -> str:
        """This plan as JSON text; `Plan.from_json` reads it back."""
        return json.dumps(self.to_dict(), indent=1)

    def to_dict(self) -> dict[str, Any]:
        """This plan as plain values."""
        return {"format": FORMAT, "budget": self.budget, "layers": [asdict(layer) for layer in self.layers]}

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read what `to_json` wrote. Raises ValueError if `text` is not such a plan."""
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"not a plan: the text is not JSON ({error})") from None
        return cls.from_dict(data)

    @classmethod
    def from_dict(cls, data: Any) -> Plan:
        """Read what `to_dict` gave. Raises ValueError if `data` is not such a plan."""
        if not isinstance(data, dict) or not {"format", "budget", "layers"} <= data.keys():
            raise ValueError("not a plan: expected an object with the keys format, budget and layers")
        if data["format"] != FORMAT:
            raise ValueError(f"this plan has format {data['format']!r}; this version of lrpet reads format {FORMAT}")
        if not isinstance(data["layers"], list):
            raise ValueError("not a plan: layers must be a list")
        return cls(layers=tuple(_read_layer(entry) for entry in data["layers"]), budget=str(data["budget"]))

    def __str__(self) -> str:
        """A table of all layers, with the totals of the network below it."""
        head = ("layer", "kind", "matrix", "rank", "MACs", "→", "params", "→", "batch norm", "decision")
        rows = [
            (
                layer.name or "(root)",
                layer.kind,
                str(layer.shape) + (" spatial" if layer.unfolding == "spatial" else "") if layer.rows else "",
                "dense" if layer.rank is None else str(layer.rank),
                *(f"{n:,}" for n in (layer.macs_dense, layer.macs, layer.params_dense, layer.params)),
                layer.batch_norm or "",
                layer.reason,
            )
            for layer in self.layers
        ]
        widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
        left = {0, 1, 8, 9}
        lines = [
            "  ".join(
                text.ljust(w) if i in left else text.rjust(w)
                for i, (text, w) in enumerate(zip(row, widths, strict=True))
            )
            for row in [head, tuple("─" * w for w in widths), *rows]
        ]
        return "\n".join([*(line.rstrip() for line in lines), "", self.summary()])

    def summary(self) -> str:
        """The totals in one line."""

        def change(before: int, after: int, unit: str) -> str:
            cut = f", {100 * (1 - after / before):.2f} % cut" if before else ""
            return f"{before / 1e6:,.2f} M → {after / 1e6:,.2f} M {unit}{cut}"

        return (
            f"{self.budget}: {len(self.ranks)} of {len(self.layers)} layers factorised; "
            f"{change(self.macs_dense, self.macs, 'multiply-adds')}; "
            f"{change(self.params_dense, self.params, 'parameters')}"
        )


def _read_layer(entry: Any) -> LayerPlan:
    names = {field.name for field in fields(LayerPlan)}
    if not isinstance(entry, dict) or entry.keys() != names:
        raise ValueError(f"not a plan: a layer's entry must have exactly the keys {', '.join(sorted(names))}")
    rank, batch_norm = entry["rank"], entry["batch_norm"]
    texts = [entry["name"], entry["kind"], entry["reason"], *([] if batch_norm is None else [batch_norm])]
    sizes = [entry[name] for name in ("rows", "columns", "groups", "macs_dense", "macs", "params_dense", "params")]
    if not (all(type(text) is str for text in texts) and all(type(size) is int and size >= 0 for size in sizes)):
        raise ValueError(f"not a plan: a value of the wrong type in the entry of layer {entry['name']!r}")
    if entry["unfolding"] not in get_args(Unfolding):
        raise ValueError(f"not a plan: layer {entry['name']!r} has unfolding {entry['unfolding']!r}")
    shape = Shape(entry["rows"], entry["columns"], entry["groups"])
    if rank is not None and not (type(rank) is int and 1 <= rank <= shape.full_rank):
        raise ValueError(f"not a plan: layer {entry['name']!r} of {shape} has rank {rank!r}")
    return LayerPlan(**entry)
