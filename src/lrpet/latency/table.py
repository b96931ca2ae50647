"""What layers cost in time, as measured: a table that allocation by latency reads."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from lrpet.compact.write import written
from lrpet.layers.matrix import Unfolding
from lrpet.planning.plain import read_json
from lrpet.planning.text import printable
from lrpet.planning.times import milliseconds

FORMAT = 1


@dataclass(frozen=True, repr=False)
class LatencyTable:
    """Milliseconds of a network and of its layers, dense and factorised at some ranks, on one machine and runtime."""

    network: float
    """Milliseconds of one pass through the dense network."""
    dense: Mapping[str, float]
    """{layer name: milliseconds of all its calls in one pass}."""
    factorised: Mapping[str, Mapping[int, float]]
    """{layer name: {rank: milliseconds of all its calls in one pass, factorised, kernels as k×k and 1×1}}."""
    source: Mapping[str, Any] = field(default_factory=dict)
    """Where the numbers come from: runtime, device, input, command, commit, hardware, versions."""
    shapes: Mapping[str, str] = field(default_factory=dict)
    """{layer name: its shape as matrices}, of every layer of the network, so that no other network takes these times."""
    realised: float = 1.0
    """The part of the time saved in layers that a whole network saves; 1 where that was not measured."""
    spatial: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    """{convolution: {rank: milliseconds of all its calls in one pass, its kernel as k×1 and 1×k}}, where measured."""

    def __post_init__(self) -> None:
        """Check the numbers. Raises ValueError that names a layer whose times are not finite, or negative, or not there."""
        milliseconds(self.network, "the network", sign="above 0")
        if not 0 <= self.realised < float("inf"):
            raise ValueError(f"realised={self.realised!r} must be a finite fraction, 0 or above")
        if self.dense.keys() != self.factorised.keys():
            raise ValueError("dense and factorised must have the times of one set of layers")
        if not self.spatial.keys() <= self.dense.keys():
            raise ValueError("spatial must have the times of layers that dense has, too")
        for name, dense in self.dense.items():
            milliseconds(dense, f"{name!r}, dense,")
        for name, times in (*self.factorised.items(), *self.spatial.items()):
            for rank, time in times.items():
                milliseconds(time, f"{name!r} at rank {rank}")
            if not times or min(times) < 1:
                raise ValueError(f"{name!r} must have a time at one rank or more, which count from 1")

    def __repr__(self) -> str:
        runtime = printable(str(self.source.get("runtime", "unknown runtime")))
        return f"LatencyTable({len(self.dense)} layers, {self.network:.3g} ms, {runtime})"

    @property
    def conditions(self) -> str:
        """Return in words what was measured: runtime, device, inputs, threads."""
        where = self.source
        threads = f"{where['threads']} threads" if "threads" in where else ""
        parts = (where.get("runtime"), where.get("device"), _shapes(where.get("input", [])), threads)
        return printable(", ".join(str(part) for part in parts if part)) or "conditions unknown"

    def mismatch(self, name: str, shape: str) -> str | None:
        """Say how a layer differs from the one that was measured; None if it does not, or if the table does not know."""
        if not self.shapes:
            return None
        if name not in self.shapes:
            return f"it has no layer {name!r}"
        measured = self.shapes[name]
        return None if measured == shape else f"{name!r} was {measured} there and is {shape} here"

    def milliseconds(self, name: str, rank: int | None, unfolding: Unfolding = "channel") -> float:
        """Return the time of a layer at `rank`, or dense (None): between measured ranks, that on the straight line.

        It is never less than at a lower rank. Below the lowest measured rank the time is that of the lowest; above the
        highest, that of the dense layer. What a layer saves counts as far as it is realised in the whole network.

        Raises KeyError for a layer that was not measured, or not in this unfolding.
        """
        dense = self.dense[name]
        if rank is None:
            return dense
        measured = (self.factorised if unfolding == "channel" else self.spatial)[name]
        return dense - self.realised * (dense - self._alone(name, rank, measured))

    def fastest(self, name: str) -> float:
        """Return the least time of a layer at any rank that was measured. Raises KeyError if it was not measured."""
        return min([*self.factorised[name].values(), *self.spatial.get(name, {}).values()])

    def _alone(self, name: str, rank: int, measured: Mapping[int, float]) -> float:
        """Return the time of a factorised layer by itself."""
        ranks = sorted(measured)
        rising = dict(zip(ranks, accumulate((measured[each] for each in ranks), max), strict=True))
        if rank <= ranks[0]:
            return rising[ranks[0]]
        for low, high in pairwise(ranks):
            if rank <= high:
                part = (rank - low) / (high - low)
                return (1 - part) * rising[low] + part * rising[high]
        return max(self.dense[name], rising[ranks[-1]])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the table as JSON; the file appears whole or not at all."""
        layers = {
            name: {"dense": milliseconds, "ranks": dict(self.factorised[name])}
            | ({"spatial": dict(self.spatial[name])} if name in self.spatial else {})
            for name, milliseconds in self.dense.items()
        }
        values = {"format": FORMAT, "network": self.network, "layers": layers, "source": dict(self.source)}
        values |= {"shapes": dict(self.shapes), "realised": self.realised}
        with written(Path(path)) as temporary:
            temporary.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LatencyTable:
        """Read what `save` wrote. Raises FileNotFoundError, or ValueError if the file is no such table."""
        path = Path(path)
        try:
            values = read_json(path.read_bytes())
            if values["format"] != FORMAT:
                raise ValueError(f"format {values['format']!r}; this version reads format {FORMAT}")
            layers = values["layers"]
            return cls(
                network=_number(values["network"]),
                dense={name: _number(layer["dense"]) for name, layer in layers.items()},
                factorised={name: _by_rank(layer["ranks"]) for name, layer in layers.items()},
                source=_source(values["source"]),
                shapes={name: str(shape) for name, shape in values.get("shapes", {}).items()},
                realised=_number(values.get("realised", 1.0)),
                spatial={name: _by_rank(layer["spatial"]) for name, layer in layers.items() if "spatial" in layer},
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{path} is no table of latencies: {error}") from None


def _by_rank(times: Mapping[str, Any]) -> dict[int, float]:
    return {int(rank): _number(ms) for rank, ms in times.items()}


def _number(value: Any) -> float:
    """Return a number of a file. Raises ValueError for true and false, which are 1 and 0 to Python."""
    if isinstance(value, bool):
        raise ValueError(f"{value} is no time")
    return float(value)


def _source(value: Any) -> dict[str, Any]:
    """Return what a file says of its numbers. Raises ValueError unless it is an object whose inputs have shapes."""
    if not isinstance(value, dict):
        raise ValueError(f"source has to be an object; got {value!r:.50}")
    shape = value.get("input", [])
    each = shape if isinstance(shape, list) and shape and isinstance(shape[0], list) else [shape]
    if not all(isinstance(sizes, list) and all(type(size) is int for size in sizes) for sizes in each):
        raise ValueError(f"source has the input {shape!r:.50}, which is no shape")
    return value


def _shapes(shape: Any) -> str:
    """Return "1×3×224×224"; of several inputs, "1×16 and 1×16"."""
    several = shape and isinstance(shape[0], list)
    return " and ".join("×".join(map(str, each)) for each in (shape if several else [shape]))
