"""Plans in files."""

from __future__ import annotations

from pathlib import Path

from lrpet import Plan


def read_plan(path: Path) -> Plan:
    """Read the plan in a JSON file. Raises FileNotFoundError, or ValueError that names the file if it holds no plan."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no plan {path}")
    try:
        return Plan.from_json(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
