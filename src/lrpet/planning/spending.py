"""What the candidates cost together, and what they may cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lrpet.planning.budget import UNITS, ImpossibleBudgetError
from lrpet.planning.candidate import Candidate, Ranks
from lrpet.planning.knapsack import ROUNDING


@dataclass(frozen=True)
class Spending:
    """The candidates, and the limits that hold for the network as a whole."""

    candidates: Mapping[str, Candidate]
    totals: Mapping[str, float]
    """{unit: cost of the dense network}."""
    limits: Mapping[str, float]
    """{unit: most that the compact network may cost}."""
    dense_parts: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """{unit: {part of the network that stays dense: its cost}}, for messages."""

    def cost(self, unit: str, ranks: Mapping[str, int | None]) -> float:
        """Return the cost of the whole network, the candidates at `ranks`."""
        saved = (each.cost_in(unit, None) - each.cost_in(unit, ranks[name]) for name, each in self.candidates.items())
        return self.totals[unit] - sum(saved)

    def fits(self, ranks: Mapping[str, int | None]) -> bool:
        """Whether every limit is kept."""
        return all(self.cost(unit, ranks) <= limit * (1 + ROUNDING) for unit, limit in self.limits.items())

    def check_possible(self) -> None:
        """Raise ValueError that names the smallest possible cost, and what it consists of, if a limit is below it."""
        if not self.candidates:
            raise ValueError(
                "no layer of this network was chosen to be factorised: widen `include`, or look at why each stays dense "
                "in the table of lrpet.plan(model, example_inputs, ranks={})"
            )
        for unit, limit in self.limits.items():
            cheapest = self._cheapest(unit)
            smallest = self.cost(unit, cheapest)
            if smallest > limit * (1 + ROUNDING):
                raise ImpossibleBudgetError(
                    f"a budget of {_number(limit)} {UNITS[unit]} cannot be met: with every chosen layer at its smallest "
                    f"rank the network still has {_number(smallest)} {UNITS[unit]}.{self._dense(unit, cheapest)} "
                    "Raise the budget or choose more layers."
                )

    def _cheapest(self, unit: str) -> Ranks:
        cheapest: Ranks = {}
        for name, each in self.candidates.items():
            costs = [(each.cost_in(unit, rank), rank) for rank in each.options()]
            cheapest[name] = min(costs, key=lambda pair: pair[0])[1]
        return cheapest

    def _dense(self, unit: str, cheapest: Ranks) -> str:
        """Return a sentence on the largest parts that stay dense even at the cheapest ranks, where they matter."""
        whole = {
            f"{name} ({each.why_dense(each.nearest(1))})": each.cost_in(unit, None)
            for name, each in self.candidates.items()
            if cheapest[name] is None
        }
        everything = {**self.dense_parts.get(unit, {}), **whole}
        parts = {name: cost for name, cost in everything.items() if cost > 0.01 * self.totals[unit]}
        if not parts:
            return ""
        largest = sorted(parts, key=lambda name: -parts[name])[:4]
        shares = ", ".join(f"{name} ({100 * parts[name] / self.totals[unit]:.0f} %)" for name in largest)
        return f" Parts that stay dense, and their share of the {UNITS[unit]}: {shares}."


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
