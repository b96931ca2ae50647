"""The declaration of one option, and how its value is read from text. Imports the standard library alone."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

#: At most so many characters of a text are shown in a message.
SHOWN = 200


@dataclass(frozen=True)
class Option:
    """One option of a recipe and of the command line."""

    default: Any
    help: str
    """What the option means, in a phrase that `--help` shows."""
    limits: Mapping[str, float] = field(default_factory=dict)
    """Bounds of a number: ge and le include theirs, gt and lt exclude theirs."""
    metavar: str | None = None
    """What `--help` shows in place of the value; None for the usual word of the type."""
    name: str = ""
    type: Any = str

    @property
    def flag(self) -> str:
        """The option as it is written on the command line."""
        return "--" + self.name.replace("_", "-")

    @property
    def kinds(self) -> tuple[Any, ...]:
        """The types that a value may have, without None."""
        union = typing.get_origin(self.type) in (typing.Union, types.UnionType)
        return tuple(kind for kind in (typing.get_args(self.type) if union else (self.type,)) if kind is not type(None))

    @property
    def choices(self) -> tuple[Any, ...] | None:
        """The only values that are allowed, where they are few."""
        (kind, *others) = self.kinds
        return None if others or typing.get_origin(kind) is not Literal else typing.get_args(kind)

    @property
    def optional(self) -> bool:
        """Whether the option may say nothing, which is "none" on the command line."""
        return self.default is None or isinstance(self.default, tuple | dict)

    @property
    def nothing(self) -> Any:
        """The value of an optional option that says nothing."""
        return None if self.default is None else type(self.default)()

    def but(self, **changes: Any) -> Option:
        """Return this option with another default, help text, type or other limits, for one command."""
        return replace(self, **changes)

    def read(self, text: str) -> Any:
        """Read a value from text. Raises ValueError that says what arrived and what is allowed."""
        if typing.get_origin(self.type) is dict:
            return read_mapping(text)
        for kind in self.kinds:
            try:
                value = _read(kind, text)
            except ValueError:
                continue
            if (wrong := self.violation(value)) is not None:
                raise ValueError(f"{text} {wrong}")
            return value
        raise ValueError(f"{text!r} must be {' or '.join(map(_called, self.kinds))}")

    def violation(self, value: Any) -> str | None:
        """Return what a number must be that this one is not; None if it is within the limits."""
        words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
        inside = {"ge": float.__ge__, "gt": float.__gt__, "le": float.__le__, "lt": float.__lt__}
        if all(inside[name](float(value), float(bound)) for name, bound in self.limits.items()):
            return None
        return f"must be {' and '.join(f'{words[name]} {bound}' for name, bound in self.limits.items())}"


def option(default: Any, help: str, *, metavar: str | None = None, **limits: float) -> Any:
    """Declare an option, as the value of an annotated class attribute."""
    return Option(default, help, limits, metavar)


def options_of(group: type) -> dict[str, Option]:
    """Return {name: option} of what a class declares itself, with each one's name and type."""
    hints = typing.get_type_hints(group)
    declared = {name: value for name, value in vars(group).items() if isinstance(value, Option)}
    return {name: replace(value, name=name, type=hints[name]) for name, value in declared.items()}


def read_mapping(text: str) -> dict[str, Any]:
    """Read a YAML text such as '{conv1: null, layer3.*: 0.3}'. Raises ValueError if it is no YAML, or no mapping."""
    from lrpet.train.yaml_text import read_yaml

    shown = repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}…")
    try:
        values = read_yaml(text)
    except ValueError as error:
        raise ValueError(f"{shown} is not YAML ({error}); quote names with an asterisk") from None
    if not isinstance(values, dict):
        raise ValueError(f"{shown} is no mapping, such as '{{conv1: null, layer3.*: 0.3}}'")
    return values


def _read(kind: Any, text: str) -> Any:
    if typing.get_origin(kind) is Literal:
        if text in typing.get_args(kind):
            return text
        raise ValueError(text)
    if typing.get_origin(kind) is tuple:  # one of its values
        return _read(typing.get_args(kind)[0], text)
    return kind(text)


def _called(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return " or ".join(map(repr, typing.get_args(kind)))
    if typing.get_origin(kind) is tuple:
        return _called(typing.get_args(kind)[0])
    return {int: "a whole number", float: "a number", Path: "a path"}.get(kind, "text")
