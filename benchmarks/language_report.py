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
    "outputs": "projections in the metric of the outputs, without energy transfer",
    "retrained": "singular value decomposition (SVD) at half, then the factors are trained",
    "retrained_by_outputs": "cut at half by what the outputs need, then the factors are trained",
    "scratch": "factors from scratch, spectral initialisation",
    "frobenius": "factors from scratch, spectral initialisation, Frobenius decay",
    "pat": "PAT of torchao, `MinRankConstraint`, with projections every 5 steps",
    "slorr": "SLORR's regulariser at its authors' strength, then SVD",
    "cut": "SVD at the end, no training",
    "cut_by_outputs": "cut at the end by what the outputs need, no training",
}
SECTION = """\
## A small language model

A Llama of four layers and 0.85 M parameters was trained on the sources of Python's standard library, byte by byte, for
{steps:,} steps of 16 windows of 128 bytes (`python -m benchmarks.language`). Every arm has equal batches, learning rates and
steps, and uniform ranks. Losses are those of test files, in nats a byte: mean ± standard deviation over {seeds} seeds.
Differences are paired with the projections, seed by seed. No arm's learning rate was tuned, and no rival's strength. PAT and
SLORR are as their authors give them, and PAT projects as often as lrpet.

{verdict}
"""
#: What the rows say, read by a person; a test holds it against them.
VERDICT = """\
Projections come ahead of factors that are trained from half on or from scratch, at every seed. Energy transfer does not help
here: without it the loss is a little lower at every seed.
"""


def section(folder: Path) -> list[str]:
    """Return the parts of the page, none if nothing was measured."""
    path = folder / FILE
    if not path.is_file():
        return []
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    seeds = len({row["seed"] for row in rows})
    parts = [SECTION.format(steps=rows[0]["steps"], seeds=seeds, verdict=VERDICT.strip())]
    for macs in sorted({row["macs"] for row in rows}, reverse=True):
        parts += [f"### With {macs:.0%} of the multiply-adds\n", "\n".join(table(rows, macs)) + "\n"]
    return parts


def losses(rows: Sequence[dict[str, Any]], macs: float) -> dict[str, dict[int, float]]:
    """Return {arm: {seed: loss}} at a budget."""
    found: dict[str, dict[int, float]] = defaultdict(dict)
    for row in rows:
        if row["macs"] == macs:
            found[row["arm"]][row["seed"]] = row["loss"]
    return dict(found)


def table(rows: Sequence[dict[str, Any]], macs: float) -> list[str]:
    """Write a line for each arm."""
    by_arm, params = losses(rows, macs), {row["arm"]: row["params"] for row in rows if row["macs"] == macs}
    lines = ["| arm | parameters | loss | perplexity | against projections |", "|---|---|---|---|---|"]
    for arm, title in TITLES.items():
        if arm not in by_arm:
            continue
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
