"""Values from JSON files, held against the types that they are declared with."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any, TypeVar

Made = TypeVar("Made")


def made(kind: type[Made], values: Mapping[str, Any]) -> Made:
    """Make a dataclass of values, each of which has the declared type of its field; numbers are finite.

    Raises TypeError for a value of another type, and for a field too many or too few.
    """
    hints = typing.get_type_hints(kind)
    for name, value in values.items():
        if name in hints and not _is(value, hints[name]):
            raise TypeError(f"{name} is {value!r:.50}, and has to be {getattr(hints[name], '__name__', hints[name])}")
    return kind(**values)


def _is(value: Any, hint: Any) -> bool:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(_is(value, part) for part in parts)
    if origin is tuple:
        several = (parts[0],) * len(value) if parts[1:] == (...,) and isinstance(value, tuple) else parts
        return isinstance(value, tuple) and len(value) == len(several) and all(map(_is, value, several))
    if hint is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is hint or (is_dataclass(hint) and isinstance(value, typing.cast(type, hint)))
