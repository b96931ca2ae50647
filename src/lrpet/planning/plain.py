"""JSON as it is read and written here: no name twice, no depth without end, and only what comes back as it was."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

#: How deep values may be nested.
DEPTH = 100


def read_json(text: str | bytes) -> Any:
    """Return the value of a JSON text. Raises ValueError if it is no JSON, is nested too deep, or has a name twice."""
    try:
        value = json.loads(text if isinstance(text, str) else text.decode("utf-8"), object_pairs_hook=_once)
    except RecursionError:
        raise ValueError(f"the text is nested deeper than {DEPTH} levels") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"the text is not JSON ({error})") from None
    if _deeper(value, DEPTH):
        raise ValueError(f"the text is nested deeper than {DEPTH} levels")
    return value


def check_plain(value: Any, name: str, *, depth: int = DEPTH) -> None:
    """Raise ValueError that says where a value is not one that JSON gives back: tuples come back as lists.

    Allowed are None, booleans, finite numbers, text, and lists and dictionaries of them, whose keys are text.
    """
    if not depth:
        raise ValueError(f"{name} is nested deeper than {DEPTH} levels, or holds itself: JSON cannot hold it")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} is {value}: JSON holds finite numbers only")
    if value is None or isinstance(value, bool | int | float | str):
        return
    if isinstance(value, dict):
        for key, each in value.items():
            if not isinstance(key, str):
                raise ValueError(f"{name} has the key {key!r}, a {type(key).__name__}: keys must be text")
            check_plain(each, f"{name}[{key!r}]", depth=depth - 1)
    elif isinstance(value, list | tuple):
        for number, each in enumerate(value):
            check_plain(each, f"{name}[{number}]", depth=depth - 1)
    else:
        raise ValueError(
            f"{name} is a {type(value).__name__}, which JSON cannot hold: give None, booleans, numbers, text, lists or "
            "dictionaries"
        )


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the text has {twice!r} twice in one object")
    return values


def _deeper(value: Any, depth: int) -> bool:
    """Tell whether a value is nested deeper than this."""
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    return not depth or any(_deeper(each, depth - 1) for each in inner)
