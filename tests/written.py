"""What README and documentation say, and the committed results that they quote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


README, NUMBERS = page("README.md"), page("docs/numbers.md")


def result(name: str) -> Any:
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))
