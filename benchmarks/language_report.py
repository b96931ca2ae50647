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
steps, and uniform ranks. Losses are those of test files, in nats a byte: mean ± standard deviation over seeds.
Differences are paired with the projections, seed by seed. No arm's learning rate was tuned, and no rival's strength. SLORR has
the strength of its authors' example. PAT has no published settings for ranks: its own cubic schedule ends at 80 % of the
training, and it projects as often as lrpet.

{verdict}
"""
#: What the rows say, read by a person; a test holds it against them.
VERDICT = """\
Projections without energy transfer are the best way to either budget, as means over seeds. With half of the multiply-adds,
all rivals are behind them at every seed. With 30 % they are ahead of factors from scratch at two of three. *Energy transfer
does harm here*, more than ten times as much at 30 % as at 50 %. The first projection then prunes much, and what is kept is
stretched by so much at once. No batch norm takes that back, as one does in the networks of the paper. So such models, and the
recipe `stdlib-gpt`, take `energy_transfer: false`.

*The metric of the outputs* is worth much where nothing is trained any more. With half of the multiply-adds it takes away a
quarter or more of the loss that an SVD adds. At 30 % no cut without training is of use. In training it gains nothing over the
metric of the weights, as a mean over seeds. Each projection looked at one batch of its own there.
"""


def section(folder: Path) -> list[str]:
    """Return the parts of the page, none if nothing was measured."""
    path = folder / FILE
    if not path.is_file():
        return []
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    parts = [SECTION.format(steps=rows[0]["steps"], verdict=VERDICT.strip())]
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
    lines = ["| arm | seeds | parameters | loss | perplexity | against projections |", "|---|---|---|---|---|---|"]
    for arm, title in TITLES.items():
        own, leading = by_arm[arm], by_arm["projected"]
        apart = "–" if arm == "projected" else _spread([own[seed] - leading[seed] for seed in own], sign="+")
        perplexity = f"{math.exp(statistics.fmean(own.values())):.3f}"
        lines.append(
            f"| {title} | {len(own)} | {params[arm] / 1e6:.2f} M | {_spread(list(own.values()))} | {perplexity} | {apart} |"
        )
    return lines


def _spread(values: Sequence[float], *, sign: str = "") -> str:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):{sign}.4f} ± {spread:.4f}"
