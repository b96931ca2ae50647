"""The table in Markdown of what `benchmarks.language` measured."""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FILE = "language.jsonl"
TITLES = {
    "dense": "dense (not compact)",
    "projected": "projections, every 5 steps from half on",
    "no_transfer": "projections, without energy transfer",
    "retrained": "singular value decomposition at half, then the factors are trained",
    "scratch": "factors from scratch, spectral initialisation",
    "cut": "singular value decomposition at the end, no training",
}
SECTION = """\
## A small language model

A Llama of four layers and 0.85 M parameters was trained on the sources of Python's standard library, byte by byte, for
{steps:,} steps of 16 windows of 128 bytes (`python -m benchmarks.language`). Compact networks have {macs:.0%} of the
multiply-adds, at uniform ranks. Every arm has equal batches, learning rates and steps. Losses are those of test files, in nats
a byte: mean ± standard deviation over {seeds} seeds. Differences are paired with the projections, seed by seed.

Projections come ahead of factors that are trained from half on or from scratch, at every seed. Energy transfer does not help
here: without it the loss is a little lower at every seed. The training is short, and no arm's learning rate was tuned.
"""


def section(folder: Path) -> list[str]:
    """Return the parts of the page, none if nothing was measured."""
    path = folder / FILE
    if not path.is_file():
        return []
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    seeds = len({row["seed"] for row in rows})
    return [SECTION.format(steps=rows[0]["steps"], macs=rows[0]["macs"], seeds=seeds), "\n".join(table(rows)) + "\n"]


def losses(rows: Sequence[dict[str, Any]]) -> dict[str, dict[int, float]]:
    """Return {arm: {seed: loss}}."""
    found: dict[str, dict[int, float]] = defaultdict(dict)
    for row in rows:
        found[row["arm"]][row["seed"]] = row["loss"]
    return dict(found)


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Write a line for each arm."""
    by_arm, params = losses(rows), {row["arm"]: row["params"] for row in rows}
    lines = ["| arm | parameters | loss | perplexity | against projections |", "|---|---|---|---|---|"]
    for arm, title in TITLES.items():
        own, leading = by_arm[arm], by_arm["projected"]
        apart = "–" if arm == "projected" else _spread([own[seed] - leading[seed] for seed in own], sign="+")
        perplexity = f"{math.exp(statistics.fmean(own.values())):.3f}"
        lines.append(
            f"| {title} | {params[arm] / 1e6:.2f} M | {_spread(list(own.values()))} | {perplexity} | {apart} |"
        )
    return lines


def _spread(values: Sequence[float], *, sign: str = "") -> str:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):{sign}.4f} ± {spread:.4f}"
