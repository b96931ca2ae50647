"""Which layers may be factorised, and why the others stay dense."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from lrpet.layers.kinds import refusal_of
from lrpet.layers.observe import Observed

Filter = Callable[[nn.Module, str], bool]
#: A name pattern such as "layer3.*", several patterns, or a function (module, name) -> bool.
Names = str | Sequence[str] | Filter
#: A message names this many layers.
_TOLD = 3
#: {name pattern: rank (int), fraction of the rank (float below 1), or None to stay dense}.
Overrides = Mapping[str, "int | float | None"]


def as_filter(names: Names, argument: str, layers: Sequence[str]) -> Filter:
    """Return what chooses the layers that these names choose.

    Raises ValueError for a pattern that matches no layer, and for what is neither patterns nor a function.
    """
    if callable(names):
        return names
    patterns = [names] if isinstance(names, str) else list(names)
    if not all(isinstance(pattern, str) for pattern in patterns):
        raise ValueError(f"{argument}={names!r} must be a name pattern, a list of them, or (module, name) -> bool")
    for pattern in patterns:
        _check_matches(argument, pattern, layers)
    return lambda module, name: any(fnmatchcase(name, pattern) for pattern in patterns)


def overridden(overrides: Overrides, layers: Sequence[str]) -> dict[str, int | float | None]:
    """Return {layer name: what the first matching pattern says}, for the layers that a pattern matches.

    Raises ValueError for a pattern that matches no layer, and for a value that is none of those in `Overrides`.
    """
    for pattern, value in overrides.items():
        _check_override(pattern, value)
        _check_matches("overrides", pattern, layers)
    found: dict[str, int | float | None] = {}
    for name in layers:
        matching = [pattern for pattern in overrides if fnmatchcase(name, pattern)]
        if matching:
            found[name] = overrides[matching[0]]
    return found


def _check_override(pattern: str, value: Any) -> None:
    rank = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    if not (value is None or rank or (isinstance(value, float) and 0 < value < 1)):
        hint = "; for full rank leave the layer dense, or name the rank" if value == 1 else ""
        raise ValueError(
            f"overrides gives {pattern!r} {value!r}; it must be a rank (a whole number from 1), a fraction of the rank above 0 "
            f"and below 1, or None to stay dense{hint}"
        )


def _check_matches(argument: str, pattern: str, layers: Sequence[str]) -> None:
    if not any(fnmatchcase(name, pattern) for name in layers):
        raise ValueError(
            f"{argument} names {pattern!r}, which matches no layer's name; its layers: {', '.join(layers)}"
        )


def refusals(
    layers: Sequence[Observed], include: Names | None, exclude: Names | None, ranks: Mapping[str, int] | None
) -> dict[str, str]:
    """Return {layer name: why it stays dense}, for every layer that is not to be, or cannot be, factorised."""
    names = [layer.name for layer in layers]
    included = None if include is None else as_filter(include, "include", names)
    excluded = None if exclude is None else as_filter(exclude, "exclude", names)
    ran = [layer.name for layer in layers if layer.calls and layer.layer is not None]
    last = ran[-1] if ran else None
    impossible = {layer.name: why for layer in layers if (why := _impossible(layer)) is not None}
    if include is not None and not callable(include):
        _check_possible([include] if isinstance(include, str) else include, layers, impossible)
    unchosen = {
        layer.name: why
        for layer in layers
        if layer.name not in impossible and (why := _unchosen(layer, included, excluded, ranks, last=last)) is not None
    }
    alone = impossible | unchosen
    return {name: why + _tie(name, layers) for name, why in alone.items()} | _blocked(layers, alone)


def _check_possible(include: Sequence[str], layers: Sequence[Observed], impossible: Mapping[str, str]) -> None:
    """Raise ValueError for a pattern that matches no layer which can be factorised."""
    reasons = {**impossible, **_blocked(layers, impossible)}
    for pattern in include:
        matching = [layer.name for layer in layers if fnmatchcase(layer.name, pattern)]
        if all(name in reasons for name in matching):
            told = "; ".join(f"{name} ({reasons[name]})" for name in matching[:_TOLD])
            more = f"; and {len(matching) - _TOLD} more" if len(matching) > _TOLD else ""
            raise ValueError(
                f"include names {pattern!r}, which matches nothing that can be factorised: {told}{more}. "
                "Name other layers, or leave this pattern out"
            )


def _tie(name: str, layers: Sequence[Observed]) -> str:
    """Return what is said of an embedding whose weight is a layer's, and counted with that."""
    (layer,) = (each for each in layers if each.name == name)
    if layer.layer is not None or layer.params or not layer.shares_weight_with:
        return ""
    return f"; its parameters are counted with {layer.shares_weight_with[0] or '(root)'}, which it is tied to"


def _impossible(layer: Observed) -> str | None:
    if (why := refusal_of(layer.module, layer.layer)) is not None:
        return why
    if layer.used_elsewhere:
        return "its weight is used outside its own forward"
    return None if layer.calls else "did not run in the observed forward pass"


def _unchosen(
    layer: Observed,
    included: Filter | None,
    excluded: Filter | None,
    ranks: Mapping[str, int] | None,
    *,
    last: str | None,
) -> str | None:
    assert layer.layer is not None
    if ranks is not None:
        named = ranks.keys() & {layer.name, *layer.shares_weight_with}
        return None if named else "not among the given ranks"
    if excluded is not None and excluded(layer.module, layer.name):
        return "excluded"
    if included is not None:
        return None if included(layer.module, layer.name) else "not included"
    if isinstance(layer.module, nn.Linear) and layer.name == last:
        tied = f", and tied to {layer.shares_weight_with[0] or '(root)'}" if layer.shares_weight_with else ""
        return f"not included: the classifier, the last layer to run{tied}"
    return None if layer.layer.weight.requires_grad else "frozen (its weight does not require gradients)"


def _blocked(layers: Sequence[Observed], alone: Mapping[str, str]) -> dict[str, str]:
    """Return why layers stay dense that share a weight with one that does, or with another kind of layer."""
    found: dict[str, str] = {}
    for layer in layers:
        others = [other for other in layers if other.name in layer.shares_weight_with]
        blocked = [other for other in others if other.name in alone or type(other.module) is not type(layer.module)]
        if layer.name not in alone and blocked:
            other = blocked[0]
            why = alone.get(other.name, f"{type(other.module).__name__} is another kind of layer")
            found[layer.name] = f"shares its weight with {other.name or '(root)'}: {why}"
    return found
