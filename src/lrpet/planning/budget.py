"""What compression is told to come to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

#: The units of budgets that are divided among the layers.
UNITS = {"macs": "multiply-adds", "params": "parameters", "bytes": "bytes", "latency": "milliseconds"}


class ImpossibleBudgetError(ValueError):
    """Budgets that no choice of ranks meets."""


@dataclass(frozen=True)
class Budget:
    """One of `keep` and `ranks`, or one or more budgets of the compact network, all of which are met.

    Raises ValueError if that is not what is given, or if a number is out of range.
    """

    keep: float | None = None
    """Fraction of every layer's rank, in (0, 1]."""
    macs: float | None = None
    """Multiply-adds: a fraction of the dense network's (up to 1) or their number (above 1)."""
    params: float | None = None
    bytes: float | None = None
    latency: float | None = None
    """Milliseconds of one pass, or a fraction of the dense network's."""
    ranks: Mapping[str, int] | None = None
    """{layer name: rank}."""

    def __post_init__(self) -> None:
        given = self.given
        alone = [name for name in ("keep", "ranks") if name in given]
        if not given or (alone and len(given) > 1):
            raise ValueError(
                "give keep, or ranks, or one or more budgets of macs, params, bytes and latency; "
                f"got {' and '.join(given) or 'none'}"
            )
        for name in given.keys() - {"ranks"}:
            _check(name, given[name])

    @property
    def given(self) -> dict[str, Any]:
        """Return {name: value} of what is asked for."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def divisible(self) -> dict[str, float]:
        """Return {unit: value} of what is to be divided among the layers; empty with keep or ranks."""
        return {name: value for name, value in self.given.items() if name in UNITS}

    def limits(self, totals: Mapping[str, float]) -> dict[str, float]:
        """Return {unit: the most that the compact network may cost}, given the costs of the dense one."""
        return {unit: value * totals[unit] if value <= 1 else value for unit, value in self.divisible.items()}

    def __str__(self) -> str:
        if self.ranks is not None:
            return "ranks"
        return ", ".join(
            f"{name}={value:g}" if value <= 1 or name == "latency" else f"{name}={value:,.0f}"
            for name, value in self.given.items()
        )


def _check(name: str, value: Any) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    whole = is_number and (float(value).is_integer() or (name == "latency" and math.isfinite(value)))
    absolute = name != "keep" and whole and value > 1
    if not (absolute or (is_number and 0 < value <= 1)):
        counted = "" if name == "keep" else f", or above 1 as a whole number of {UNITS[name]}"
        raise ValueError(f"{name}={value!r} must be a fraction above 0 and at most 1 (of the dense network's){counted}")
