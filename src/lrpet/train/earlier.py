"""Recipes and run folders of lrpet 0.1.0, whose options had other names and defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: {name in 0.1.0: name now}. A `start` that was a path is `weights` now.
RENAMED = {"project_from": "start", "layers": "include", "start": "weights"}


def translated(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a file under their names of today, with the defaults that held where the old names were used.

    Values without any old name are returned as they are. Raises ValueError if an old and a new name stand side by side.
    """
    if not _is_old(values):
        return dict(values)
    old = dict(values)
    every, every_last = old.get("every", 5), old.get("every_last")
    from_there, patterns, weights = (old.pop(name, None) for name in RENAMED)
    if "include" in old or "weights" in old or isinstance(weights, int | float):
        raise ValueError(
            "names of lrpet 0.1.0 stand beside newer ones: write project_from as start, layers as include, and a path in "
            "start as weights"
        )
    if from_there is None:
        from_there = 0.5 if isinstance(every, int) and every_last is None else 0.0
    new: dict[str, Any] = {**old, "start": float(from_there)}
    if weights is not None:
        new["weights"] = weights
    if patterns:
        new["include"] = patterns
    shrink_from = new.pop("shrink_from", None)
    if isinstance(every, float):
        new["every_last"] = 5 if every_last is None else every_last
        new["shrink_from"] = 0.0 if shrink_from is None else shrink_from
    elif shrink_from is not None and every_last is not None:
        new["shrink_from"] = shrink_from
    if old.get("allocate", "auto") == "auto" and old.get("descent") is not None:
        new["allocate"] = "uniform"
    return new


def _is_old(values: Mapping[str, Any]) -> bool:
    start = values.get("start")
    return "project_from" in values or "layers" in values or (isinstance(start, str) and not _is_number(start))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
