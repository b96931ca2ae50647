"""What a loop says of its cases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

#: Cases that went wrong are told of up to this number; all are counted.
TOLD = 25


@dataclass(frozen=True)
class Verdict:
    """What became of one case."""

    case: str
    wrong: list[str] = field(default_factory=list)
    """What is not as it should be; empty if all is well."""
    count: int = 1
    """How many faults the case had."""
    notes: list[str] = field(default_factory=list)
    """What is worth counting besides, right or not."""

    def plain(self) -> dict[str, Any]:
        """Return the fields as JSON can hold them."""
        return asdict(self)


def summed(verdicts: Sequence[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """Return what a result file says of a loop: how many faults there were, and of the cases that went wrong."""
    wrong = [verdict for verdict in verdicts if verdict["wrong"]]
    notes = Counter(note for verdict in verdicts for note in verdict["notes"])
    return {
        "done": True,
        "cases": len(verdicts),
        "faults": sum(verdict["count"] for verdict in verdicts),
        "wrong": len(wrong),
        "passed": bool(verdicts) and not wrong,
        "notes": dict(sorted(notes.items())),
        **more,
        "told": [{"case": verdict["case"], "wrong": verdict["wrong"]} for verdict in wrong[:TOLD]],
    }


def undone(why: str) -> dict[str, Any]:
    """Return what a result file says of a loop that this machine does not allow."""
    return {"done": False, "why": why}
