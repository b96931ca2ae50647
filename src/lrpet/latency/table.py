"""What layers cost in time, as measured: a table that allocation by latency reads."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

FORMAT = 1


@dataclass(frozen=True)
class LatencyTable:
    """Milliseconds of a network and of its layers, dense and factorised at some ranks, on one machine and runtime."""

    network: float
    """Of one pass through the dense network."""
    dense: Mapping[str, float]
    """{layer name: of all its calls in one pass}."""
    factorised: Mapping[str, Mapping[int, float]]
    """{layer name: {rank: likewise}}."""
    source: Mapping[str, Any] = field(default_factory=dict)
    """Where the numbers come from: runtime, device, input, command, commit, hardware, versions."""

    def milliseconds(self, name: str, rank: int | None) -> float:
        """Of a layer at `rank`, or dense; between measured ranks on the straight line, and never less than at a lower rank.

        Below the lowest measured rank the time is that of the lowest; above the highest, that of the dense layer.
        """
        if rank is None:
            return self.dense[name]
        measured = self.factorised[name]
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
        """Write it as JSON."""
        layers = {
            name: {"dense": milliseconds, "ranks": {str(rank): ms for rank, ms in self.factorised[name].items()}}
            for name, milliseconds in self.dense.items()
        }
        values = {"format": FORMAT, "network": self.network, "layers": layers, "source": dict(self.source)}
        Path(path).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LatencyTable:
        """Read what `save` wrote. Raises FileNotFoundError, or ValueError if the file is no such table."""
        path = Path(path)
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if values["format"] != FORMAT:
                raise ValueError(f"format {values['format']!r}; this version reads format {FORMAT}")
            layers = values["layers"]
            return cls(
                network=float(values["network"]),
                dense={name: float(layer["dense"]) for name, layer in layers.items()},
                factorised={
                    name: {int(rank): float(ms) for rank, ms in layer["ranks"].items()}
                    for name, layer in layers.items()
                },
                source=values["source"],
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is no table of latencies: {error}") from None
