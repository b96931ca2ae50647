"""From declared options to argparse: a command, its options, and their help texts with the defaults."""

from __future__ import annotations

import argparse
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrpet.train.declaration import Option


@dataclass(frozen=True)
class Command:
    """One command of the command line."""

    name: str
    summary: str
    """One phrase, for the list of commands."""
    description: str
    examples: str
    """Lines of command and comment, shown below the options."""
    declare: Callable[[argparse.ArgumentParser], None]
    """Adds the command's arguments to its parser."""
    run: Callable[[argparse.Namespace], None]
    interrupted: str = "interrupted"
    """What is said when the command is interrupted."""

    def add_to(self, commands: Any) -> None:
        """Add this command to the subparsers of the main parser."""
        parser = commands.add_parser(
            self.name,
            help=self.summary,
            description=self.description,
            epilog=f"examples:\n{self.examples}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.declare(parser)
        parser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks of errors")
        parser.set_defaults(run=self.run, interrupted=self.interrupted)


def add_option(parser: Any, option: Option, *, checked: bool = True) -> None:
    """Add a declared option to an argparse parser or group.

    With `checked`, the value is read and checked at once, and its default applies. Without, the text is left to a config,
    and the value is absent where the option was not given.
    """
    default = "" if option.optional and not option.default else f" [{_shown(option.default)}]"
    arguments: dict[str, Any] = {
        "dest": option.name,
        "help": f"{option.help}{default}".replace("%", "%%"),
        "default": option.default if checked else argparse.SUPPRESS,
    }
    kind = option.kinds[0]
    if kind is bool:
        action: Any = "store_true" if checked else argparse.BooleanOptionalAction
        parser.add_argument(option.flag, action=action, **arguments)
        return
    if typing.get_origin(kind) is tuple:
        arguments["nargs"] = "+"
    if option.choices is not None:
        arguments["choices"] = option.choices
    else:
        word = "YAML" if typing.get_origin(kind) is dict else {int: "N", float: "X", Path: "PATH"}.get(kind, "NAME")
        arguments["metavar"] = option.metavar or word
    if checked and typing.get_origin(kind) is not dict:  # YAML is read when the command runs, which may need a package
        arguments["type"] = _reader(option)
    parser.add_argument(option.flag, **arguments)


def _shown(default: Any) -> str:
    """Return a default as it would be written on the command line."""
    if isinstance(default, bool):
        return "yes" if default else "no"
    return " ".join(map(str, default)) if isinstance(default, tuple) else str(default)


def _reader(option: Option) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            return option.read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read
