"""Which layer gets how much of a budget: the choices that keep most for their cost. Pure arithmetic on lists.

Every layer has some choices, a rank or staying dense. Each choice has a cost, in every unit that is budgeted, and the value
that it keeps. Wanted are the choices, one for each layer, that together keep most and fit: a multiple-choice knapsack.

Its linear relaxation is solved by marginal gains (Sinha and Zoltners 1979). Only the choices on the concave hull of value over
cost matter. Going up these hulls in order of gain for cost is optimal until the first step that no longer fits. The relaxed
optimum bounds the true one from above, so that every answer comes with how much it can at most be short of the best.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lrpet.planning.budget import ImpossibleBudgetError

ROUNDS = 40
#: What a sum of costs may be above its budget by, relative to it: the error of adding them up.
ROUNDING = 1e-12


@dataclass(frozen=True)
class Choice:
    """One thing that can be done with a layer."""

    rank: int | None
    """None: it stays dense."""
    costs: tuple[float, ...]
    """One for each budget, each as a fraction of what the budget leaves for all layers together."""
    value: float
    """What is kept; in any unit, the same for all layers."""


@dataclass(frozen=True)
class Solution:
    """A choice for every layer."""

    chosen: dict[str, Choice]
    bound: float
    """The value that no allocation within the budgets exceeds."""

    @property
    def value(self) -> float:
        """What is kept altogether."""
        return sum(choice.value for choice in self.chosen.values())


def solve(layers: Mapping[str, Sequence[Choice]]) -> Solution:
    """Return the choices that keep most, their costs adding up to at most 1 for every budget.

    With one budget, short of the best by no more than the gain of one step. With several, budgets are weighed against each
    other (multiplicative weights), each weighing gives a bound, and the best allocation found is returned with the lowest.

    Raises ValueError if not even the cheapest choices fit.
    """
    budgets = len(next(iter(layers.values()))[0].costs) if layers else 0
    weights = [1 / max(1, budgets)] * budgets
    best: Solution | None = None
    for _ in range(ROUNDS if budgets > 1 else 1):
        found = _by_gain(layers, weights)
        if found is not None:
            better = best is None or found.value > best.value
            bound = found.bound if best is None else min(best.bound, found.bound)
            best = Solution(found.chosen if better or best is None else best.chosen, bound)
        used = _totals((found or Solution(_cheapest(layers, weights), 0.0)).chosen)
        weights = [weight * math.exp(use - 1) for weight, use in zip(weights, used, strict=True)]
        weights = [weight / sum(weights) for weight in weights]
    if best is None:
        raise ImpossibleBudgetError("the cheapest choices of all layers do not fit the budgets together")
    return best


def _by_gain(layers: Mapping[str, Sequence[Choice]], weights: Sequence[float]) -> Solution | None:
    """Go up the hulls in order of gain for weighed cost; None if the start does not fit."""
    hulls = {name: _hull(choices, weights) for name, choices in layers.items()}
    chosen = {name: hull[0] for name, hull in hulls.items()}
    used = list(_totals(chosen))
    if any(use > 1 + ROUNDING for use in used):
        return None
    steps = [
        (_slope(low, high, weights), name, low, high)
        for name, hull in hulls.items()
        for low, high in itertools.pairwise(hull)
    ]
    steps.sort(key=lambda step: (-step[0], step[1], _weighed(step[2], weights)))
    # The relaxation: one budget, the weighed sum of all, of which the last step may be taken in part.
    left, bound = 1 - _weighed_sum(used, weights), sum(choice.value for choice in chosen.values())
    for _, _, low, high in steps:
        cost = _weighed(high, weights) - _weighed(low, weights)
        part = min(1.0, left / cost) if cost > 0 else 1.0
        bound += part * (high.value - low.value)
        left -= part * cost
        if left <= 0:
            break
    for _, name, low, high in steps:
        new = [use + b - a for use, a, b in zip(used, low.costs, high.costs, strict=True)]
        if chosen[name] is low and all(use <= 1 + ROUNDING for use in new):
            chosen[name], used = high, new
    return Solution(_filled(layers, chosen, used), bound)


def _filled(layers: Mapping[str, Sequence[Choice]], chosen: dict[str, Choice], used: list[float]) -> dict[str, Choice]:
    """Spend what is left on whatever gains most and fits, on the hull or off it."""
    chosen = dict(chosen)
    while True:
        gains = []
        for name, choices in layers.items():
            now = chosen[name]
            for choice in choices:
                after = (use + b - a for use, a, b in zip(used, now.costs, choice.costs, strict=True))
                if choice.value > now.value and all(use <= 1 + ROUNDING for use in after):
                    gains.append((choice.value - now.value, name, choice))
        if not gains:
            return chosen
        _, name, choice = max(gains, key=lambda gain: gain[:2])
        used = [use + b - a for use, a, b in zip(used, chosen[name].costs, choice.costs, strict=True)]
        chosen[name] = choice


def _hull(choices: Sequence[Choice], weights: Sequence[float]) -> list[Choice]:
    """Return the choices on the upper concave hull of value over weighed cost, cheapest first, values rising."""
    hull: list[Choice] = []
    for choice in sorted(choices, key=lambda choice: (_weighed(choice, weights), -choice.value)):
        if hull and choice.value <= hull[-1].value:
            continue
        while len(hull) > 1 and _slope(hull[-2], hull[-1], weights) <= _slope(hull[-1], choice, weights):
            hull.pop()
        hull.append(choice)
    return hull


def _cheapest(layers: Mapping[str, Sequence[Choice]], weights: Sequence[float]) -> dict[str, Choice]:
    return {
        name: min(choices, key=lambda choice: (_weighed(choice, weights), -choice.value))
        for name, choices in layers.items()
    }


def _slope(low: Choice, high: Choice, weights: Sequence[float]) -> float:
    cost = _weighed(high, weights) - _weighed(low, weights)
    return (high.value - low.value) / cost if cost > 0 else math.inf


def _weighed(choice: Choice, weights: Sequence[float]) -> float:
    return _weighed_sum(choice.costs, weights)


def _weighed_sum(costs: Sequence[float], weights: Sequence[float]) -> float:
    return sum(weight * cost for weight, cost in zip(weights, costs, strict=True))


def _totals(chosen: Mapping[str, Choice]) -> tuple[float, ...]:
    return tuple(sum(costs) for costs in zip(*(choice.costs for choice in chosen.values()), strict=True))
