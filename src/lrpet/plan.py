"""Plan: the one decision, taken once, of what happens to every layer. Frozen, printable, serialisable."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from torch import nn

from lrpet.matrix import COUNTED, can_rectify, matrix_shape, unsupported
from lrpet.profile import Layer, profile
from lrpet.ranks import MatrixCost, uniform_keep, uniform_ranks

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
    rank: int | None
    """Rank of the factors; None if the layer stays dense."""
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
            if matrix_shape(module) != (layer.rows, layer.columns):
                rows, columns = matrix_shape(module)
                raise ValueError(
                    f"the plan expects {layer.name!r} to be {layer.rows}×{layer.columns} as a matrix, but in this model it "
                    f"is {rows}×{columns}: was the plan made for another network?"
                )
            if layer.batch_norm is not None:
                norm = modules.get(layer.batch_norm)
                if norm is None or not can_rectify(norm) or norm.num_features != layer.rows:
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
                f"{layer.rows}×{layer.columns}" if layer.rows else "",
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
    sizes = [entry[name] for name in names - {"rank", "batch_norm", "name", "kind", "reason"}]
    if not (all(type(text) is str for text in texts) and all(type(size) is int and size >= 0 for size in sizes)):
        raise ValueError(f"not a plan: a value of the wrong type in the entry of layer {entry['name']!r}")
    if rank is not None and not (type(rank) is int and 1 <= rank <= min(entry["rows"], entry["columns"])):
        raise ValueError(f"not a plan: layer {entry['name']!r} of {entry['rows']}×{entry['columns']} has rank {rank!r}")
    return LayerPlan(**entry)


def plan(
    model: nn.Module,
    example_inputs: Any,
    *,
    keep: float | None = None,
    macs: float | None = None,
    params: float | None = None,
    ranks: Mapping[str, int] | None = None,
    include: Callable[[nn.Module, str], bool] | None = None,
    rectify: bool = True,
    factorize_all: bool = False,
) -> Plan:
    """Decide which layers of `model` become low-rank, and at which rank, from exactly one budget.

    Args:
        model: Any network; left as it was found.
        example_inputs: What its forward takes: a tensor, a tuple of positional or a mapping of keyword arguments. Costs are
            those of this input: give a batch of one for the cost of one example.
        keep: Fraction of the rank of every layer to keep, in (0, 1]: r = max(1, ⌊s·keep⌋) with s = min(rows, columns).
            The paper's pruning ratio is p = 1 − keep.
        macs: Fraction, in (0, 1], of the dense network's multiply-adds that the compact one may have. Met by the uniform
            `keep` that comes closest from below.
        params: Likewise for the parameters (weights and biases of convolutions and linears).
        ranks: {layer name: rank}; layers not named stay dense.
        include: `(module, name) -> bool` chooses layers. By default every convolution, and every linear except the final
            classifier (a linear that is the last layer to run).
        rectify: Record each layer's batch norm, to be folded in when it is projected.
        factorize_all: Factorise even where the factors cost as much as the dense layer or more.

    Raises:
        ValueError: none or several budgets; a budget out of range or impossible; an unknown layer, one that cannot be
            factorised, or a rank out of range in `ranks`.
    """
    budgets = {"keep": keep, "macs": macs, "params": params, "ranks": ranks}
    given = [name for name, value in budgets.items() if value is not None]
    if len(given) != 1:
        raise ValueError(f"give exactly one of keep, macs, params and ranks; got {' and '.join(given) or 'none'}")
    if ranks is not None and include is not None:
        raise ValueError("give ranks or include, not both: ranks names the layers itself")
    for name in ("keep", "macs", "params"):
        value = budgets[name]
        if value is not None and not (isinstance(value, int | float) and 0 < value <= 1):
            raise ValueError(f"{name}={value!r} must be a fraction above 0 and at most 1 (of the dense network's)")

    layers = profile(model, example_inputs)
    refused = _refused(layers, include if include is not None else _default_include(layers), ranks)
    candidates = {layer.name: _cost(layer) for layer in layers if layer.name not in refused}

    def decided(wanted: Mapping[str, int]) -> tuple[LayerPlan, ...]:
        return tuple(
            _decide(
                layer, wanted.get(layer.name), refused.get(layer.name), rectify=rectify, factorize_all=factorize_all
            )
            for layer in layers
        )

    if ranks is not None:
        _check_ranks(ranks, layers, refused)
        chosen, budget = dict(ranks), "ranks"
    elif keep is not None:
        chosen, budget = uniform_ranks(candidates, keep), f"keep={keep:g}"
    else:
        total = "macs" if macs is not None else "params"
        fraction = macs if macs is not None else params
        assert fraction is not None

        def cost(wanted: Mapping[str, int]) -> int:
            return sum(getattr(layer, total) for layer in decided(wanted))

        what = "multiply-adds" if total == "macs" else "parameters"
        found = uniform_keep(candidates, fraction * cost({}), cost, what=what)
        chosen, budget = uniform_ranks(candidates, found), f"{total}={fraction:g} (uniform keep {found:.4g})"
    return Plan(layers=decided(chosen), budget=budget)


def _default_include(layers: list[Layer]) -> Callable[[nn.Module, str], bool]:
    ran = [layer.name for layer in layers if layer.calls and isinstance(layer.module, COUNTED)]

    def include(module: nn.Module, name: str) -> bool:
        return not (isinstance(module, nn.Linear) and name == ran[-1])

    return include


def _refused(
    layers: list[Layer], include: Callable[[nn.Module, str], bool], ranks: Mapping[str, int] | None
) -> dict[str, str]:
    """{layer name: why it stays dense}, for every layer that is not to be, or cannot be, factorised."""
    reasons: dict[str, str] = {}
    for layer in layers:
        if (why := unsupported(layer.module)) is not None:
            reasons[layer.name] = why
        elif layer.shares_weight_with:
            reasons[layer.name] = (
                f"shares its weight with {', '.join(other or '(root)' for other in layer.shares_weight_with)}"
            )
        elif not layer.calls:
            reasons[layer.name] = "did not run in the observed forward pass"
        elif ranks is not None:
            if layer.name not in ranks:
                reasons[layer.name] = "not among the given ranks"
        elif not include(layer.module, layer.name):
            reasons[layer.name] = "not included"
    return reasons


def _check_ranks(ranks: Mapping[str, int], layers: list[Layer], refused: Mapping[str, str]) -> None:
    known = {layer.name: layer for layer in layers}
    for name, rank in ranks.items():
        if name not in known:
            raise ValueError(f"ranks names {name!r}, which is no layer of this network; its layers: {', '.join(known)}")
        if name in refused:
            raise ValueError(f"ranks names {name!r}, which cannot be factorised: {refused[name]}")
        full = _cost(known[name]).full_rank
        if not isinstance(rank, int) or isinstance(rank, bool) or not 1 <= rank <= full:
            raise ValueError(f"ranks gives {name!r} the rank {rank!r}; it must be a whole number from 1 to {full}")


def _cost(layer: Layer) -> MatrixCost:
    return MatrixCost(rows=layer.rows, columns=layer.columns, positions=layer.positions)


def _decide(layer: Layer, wanted: int | None, refused: str | None, *, rectify: bool, factorize_all: bool) -> LayerPlan:
    macs, params, rank, reason = layer.macs, layer.params, None, refused or ""
    if wanted is not None:
        cost = _cost(layer)
        if factorize_all or cost.saves(wanted):
            params -= cost.params() - cost.params(wanted)
            macs, rank, reason = cost.macs(wanted), wanted, "factorised"
        else:
            reason = f"factors of rank {wanted} would cost as much or more"
    return LayerPlan(
        name=layer.name,
        kind=type(layer.module).__name__,
        rows=layer.rows,
        columns=layer.columns,
        rank=rank,
        macs_dense=layer.macs,
        macs=macs,
        params_dense=layer.params,
        params=params,
        batch_norm=layer.batch_norm if rectify and rank is not None else None,
        reason=reason,
    )
