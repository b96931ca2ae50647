"""The names of a plan's layers, in a network that is a part of the planned one or has it as a part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from lrpet.planning.plan import Plan

Rename = Callable[[str], str | None]


def renamed(plan: Plan, rename: Rename) -> Plan:
    """Return a plan of other names; layers for which `rename` gives None are left out."""

    def other(name: str | None) -> str | None:
        return None if name is None else rename(name)

    layers = tuple(
        replace(layer, name=name, batch_norm=other(layer.batch_norm), shares=other(layer.shares))
        for layer in plan.layers
        if (name := rename(layer.name)) is not None
    )
    return replace(plan, layers=layers)


def within(plan: Plan, prefix: str) -> Plan:
    """Return the plan of the module with this name, "" for the whole network."""
    start = f"{prefix}." if prefix else ""
    return renamed(plan, lambda name: name.removeprefix(start) if name.startswith(start) else None)


def ways(model: Any) -> list[Callable[[str], str]]:
    """Return how names may differ between a transformers model and what was saved of its family.

    transformers loads a model with a head from weights without one, and the other way around; the head's
    `base_model_prefix` then comes or goes.
    """
    prefix = f"{model.base_model_prefix}."
    return [str, lambda name: name.removeprefix(prefix), lambda name: prefix + name]


def fitted(plan: Plan, model: Any) -> Plan:
    """Return the plan in the names of a transformers model of the family: with another head, or without any.

    Layers that `model` does not have are left out, as their weights are.

    Raises ValueError if the model has none of the layers.
    """
    names = {name for name, _ in model.named_modules()}
    found = {way: sum(way(name) in names for name in plan.ranks) for way in ways(model)}
    best = max(found, key=found.__getitem__)
    if plan.ranks and not found[best]:
        raise ValueError(
            f"the plan factorises {next(iter(plan.ranks))!r} and others, none of which this {type(model).__name__} has: "
            "load the class that was saved"
        )
    return renamed(plan, lambda name: best(name) if best(name) in names else None)
