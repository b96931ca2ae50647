"""What commands print: names of files and layers in it give the terminal no orders."""

from __future__ import annotations

import sys
from typing import TextIO

from lrpet.planning.text import printable


def say(text: str, *, file: TextIO | None = None) -> None:
    """Print lines of text at once, with control characters escaped, to stdout unless another file is given."""
    print(printable(text, kept="\n"), file=file or sys.stdout, flush=True)
