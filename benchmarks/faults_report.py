"""The table in Markdown of what `benchmarks.faults` came to, for docs/reliability.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def table(loops: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Write how many faults each loop came to, and in how many cases something was wrong."""
    lines = ["| loop | faults | cases that went wrong |", "|---|---|---|"]
    for name, found in loops.items():
        parts = [found] if "wrong" in found else [part for part in found.values() if isinstance(part, dict)]
        lines.append(f"| `{name}` | {found['faults']:,} | {sum(part['wrong'] for part in parts if part['done']):,} |")
    return lines
