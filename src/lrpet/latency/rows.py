"""What was measured of one network, or of one layer, beside what the first network took."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """What a network costs on paper."""

    size: int
    """Bytes of the weights as they are saved."""
    macs: int
    """Multiply-adds of one example, all products of the network included."""
    params: int
    """Parameters, shared ones once."""


@dataclass(frozen=True)
class Row:
    """One network on one runtime at one batch size."""

    network: str
    runtime: str
    batch_size: int
    milliseconds: float
    """The median of all rounds."""
    quartiles: tuple[float, float]
    """Milliseconds that a quarter of the rounds were below, and that a quarter were above."""
    rounds: int
    memory: int | None
    """Bytes at the largest, see the table's note; None where it was not measured."""
    cost: Cost
    time_ratio: float
    """The median over that of the first network, on this runtime at this batch size."""
    cost_ratio: float
    """The multiply-adds over those of the first network."""

    @property
    def realised(self) -> float | None:
        """The part of the cut in multiply-adds that is a cut in time; None where multiply-adds are not cut."""
        return (1 - self.time_ratio) / (1 - self.cost_ratio) if self.cost_ratio < 1 else None


@dataclass(frozen=True)
class LayerRow:
    """One layer of the first network and of another, in eager PyTorch."""

    network: str
    layer: str
    kind: str
    dense_milliseconds: float
    milliseconds: float
    cost_ratio: float | None
    """The layer's multiply-adds over those of the first network's; None where it has none."""

    @property
    def time_ratio(self) -> float:
        """The time over that of the first network's layer."""
        return self.milliseconds / self.dense_milliseconds if self.dense_milliseconds else 1.0

    @property
    def lost(self) -> float:
        """The milliseconds beyond the dense time multiplied by the ratio of multiply-adds."""
        return self.milliseconds - self.dense_milliseconds * (1.0 if self.cost_ratio is None else self.cost_ratio)


def rows_of(
    times: Mapping[str, Sequence[float]],
    memory: Mapping[str, int | None],
    costs: Mapping[str, Cost],
    *,
    runtime: str,
    batch_size: int,
) -> list[Row]:
    """Return a row for each network, by the milliseconds of its rounds; the first one is what the others are compared with."""
    first = next(iter(times))
    median = {name: statistics.median(rounds) for name, rounds in times.items()}
    rows = []
    for name, rounds in times.items():
        low, _, high = statistics.quantiles(rounds, n=4, method="inclusive")
        rows.append(
            Row(
                network=name,
                runtime=runtime,
                batch_size=batch_size,
                milliseconds=median[name],
                quartiles=(low, high),
                rounds=len(rounds),
                memory=memory[name],
                cost=costs[name],
                time_ratio=median[name] / median[first],
                cost_ratio=costs[name].macs / costs[first].macs if costs[first].macs else 1.0,
            )
        )
    return rows
