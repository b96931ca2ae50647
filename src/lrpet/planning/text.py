"""Text of other people, such as the names of layers in a file, as it may be shown: nothing in it gives orders."""

from __future__ import annotations

import re

_MARKUP = re.compile(r"([\\`*_{}\[\]<>&#|~!])")


def printable(text: str, *, kept: str = "") -> str:
    r"""Return text with control and other invisible characters escaped, as \x1b is, but for those in `kept`.

    Terminals obey control characters, and lines end where a newline is.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in kept else _escaped(c) for c in text)


def markdown(text: str) -> str:
    """Return text that Markdown shows as it is, in one line: neither markup nor HTML is taken for one."""
    return _MARKUP.sub(r"\\\1", printable(text))


def fenced(text: str, language: str = "") -> str:
    """Return text as a block of code in Markdown, whose fence is longer than any in the text."""
    longest = max((len(ticks) for ticks in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
