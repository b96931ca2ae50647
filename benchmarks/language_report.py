"""The table in Markdown of what `benchmarks.language` measured."""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

FILE = "language.jsonl"
TITLES = {
    "dense": "dense (not compact)",
    "projected": "projections, every 5 steps from half on",
    "no_transfer": "projections, without energy transfer",
    "by_energy": "projections, without energy transfer, ranks by energy",
    "outputs": "projections in the metric of the outputs, without energy transfer",
    "retrained": "singular value decomposition (SVD) at half, then the factors are trained",
    "retrained_by_outputs": "cut at half by what the outputs need, then the factors are trained",
    "retrained_by_energy": "SVD at half to ranks by energy, then the factors are trained",
    "scratch": "factors from scratch, spectral initialisation",
    "frobenius": "factors from scratch, spectral initialisation, Frobenius decay",
    "pat": "PAT of torchao, `MinRankConstraint`, with projections every 5 steps",
    "slorr": "SLORR's regulariser at its authors' strength, then SVD",
    "cut": "SVD at the end, no training",
    "cut_by_outputs": "cut at the end by what the outputs need, no training",
}
TITLES_TUNED = {
    "tuned_dense": "fine-tuned, stays dense",
    "tuned_projected": "projections, every 5 steps",
    "tuned_no_transfer": "projections, without energy transfer",
    "tuned_svd": "SVD, then the factors are fine-tuned",
    "tuned_by_outputs": "cut by what the outputs need, then the factors are fine-tuned",
}
SECTION = """\
## Small language models

Llamas of four layers were trained on the sources of Python's standard library, byte by byte, for {steps:,} steps of 16 windows
of 128 bytes (`python -m benchmarks.language`). Every arm has equal batches, learning rates and steps, and uniform ranks unless
it says otherwise. Losses are those of test files, in nats a byte: mean ± standard deviation over seeds. Differences are paired
with the projections, seed by seed. No arm's learning rate was tuned, and no rival's strength. SLORR has the strength of its
authors' example. PAT has no published settings for ranks: its own cubic schedule ends at 80 % of the training, and it projects
as often as lrpet.
"""
#: What the rows say, read by a person; a test holds it against them.
VERDICT_SMALL = """\
Projections without energy transfer are the best way to either budget, as means over seeds. With half of the multiply-adds,
all rivals are behind them at every seed. With 30 % they are ahead of factors from scratch at two of three. *Energy transfer
does harm here*, more than ten times as much at 30 % as at 50 %. The first projection then prunes much, and what is kept is
stretched by so much at once. No batch norm takes that back, as one does in the networks of the paper. So `lrpet train` leaves
it out where it trains on text.

*The metric of the outputs* is worth much where nothing is trained any more. With half of the multiply-adds it takes away a
quarter or more of the loss that an SVD adds. At 30 % no cut without training is of use. In training it gains nothing over the
metric of the weights, as a mean over seeds. Each projection looked at one batch of its own there.
"""
VERDICT_LARGER = """\
By projections without energy transfer, to cut half of the multiply-adds costs 0.018 nats a byte, and to cut 70 % costs 0.059.
With 30 % left these are the best way as a mean over seeds. PAT and factors trained from half on are behind them at every seed.
Factors from scratch scatter most: they are ahead at two seeds and far behind at the third. With half left PAT is level: its
mean is 0.001 lower, and it is behind at two of three seeds. Factors trained from half on are behind at every seed there, too.

*Energy transfer* does harm at every seed, by 0.002 with half of the multiply-adds and by 0.004 with 30 %. *Ranks by energy*
lose to an equal fraction of every rank at both budgets and every seed, projected or retrained. So budgets are divided evenly by
default where there is no batch norm. *The metric of the outputs* takes away half of the loss that an SVD adds at half of the
multiply-adds, where nothing is trained any more.

SLORR was left out: the decomposition of every weight at every step takes longer than the training. Projections in the metric of
the outputs were, too.
"""
VERDICT_TUNED = """\
The trained model was trained on for a quarter of the steps, on other batches, from a third of the highest learning rate. The
dense model gains by that, too, and losses are held against it. By the best way, 0.005 nats a byte are lost with 70 % of the
multiply-adds, 0.013 with half, and 0.071 with 30 %.

With 30 % left the best way is to project from the first step to the last. It is ahead of both ways to train factors at every
seed. With 70 % and with half, the best way is `lrpet.compress` with `calibration`, whose factors are then trained. It is ahead
of projections and of an SVD at every seed. So both are for a trained model: the cut by its outputs where half or more is kept,
projections where less is. *Energy transfer* makes a difference of 0.001 or less here.
"""
VERDICTS = {128: VERDICT_SMALL, 256: VERDICT_LARGER}


def section(folder: Path) -> list[str]:
    """Return the parts of the page, none if nothing was measured."""
    if not (folder / FILE).is_file():
        return []
    rows = read(folder)
    parts = [SECTION.format(steps=rows[0]["steps"])]
    for hidden in sorted({row["hidden"] for row in rows}):
        some = [row for row in rows if row["hidden"] == hidden]
        size = max(row["params"] for row in some) / 1e6
        precision = {"no": "in float32", "bf16": "with autocast to bfloat16"}[some[0]["precision"]]
        parts.append(f"### {size:.2f} M parameters, trained {precision}\n\n{VERDICTS[hidden].strip()}\n")
        parts += _tables(some, TITLES, "#### With {:.0%} of the multiply-adds\n")
        if any(row["arm"] in TITLES_TUNED for row in some):
            parts.append(f"#### Fine-tuning the trained model\n\n{VERDICT_TUNED.strip()}\n")
            parts += _tables(some, TITLES_TUNED, "##### With {:.0%} of the multiply-adds\n")
    return parts


def read(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of the file."""
    lines = (folder / FILE).read_text(encoding="utf-8").splitlines()
    return [{"hidden": 128, "precision": "no", **json.loads(line)} for line in lines]


def _tables(rows: Sequence[dict[str, Any]], titles: Mapping[str, str], heading: str) -> Iterator[str]:
    for macs in sorted({row["macs"] for row in rows if row["arm"] in titles}, reverse=True):
        yield heading.format(macs)
        yield "\n".join(table([row for row in rows if row["macs"] == macs], titles)) + "\n"


def losses(
    rows: Sequence[dict[str, Any]], macs: float, titles: Collection[str] = TITLES
) -> dict[str, dict[int, float]]:
    """Return {arm: {seed: loss}} at a budget, of those arms."""
    found: dict[str, dict[int, float]] = defaultdict(dict)
    for row in rows:
        if row["macs"] == macs and row["arm"] in titles:
            found[row["arm"]][row["seed"]] = row["loss"]
    return dict(found)


def table(rows: Sequence[dict[str, Any]], titles: Mapping[str, str]) -> list[str]:
    """Write a line for each arm of one budget; differences are those from the first that projects."""
    by_arm, params = losses(rows, rows[0]["macs"], titles), {row["arm"]: row["params"] for row in rows}
    lines = ["| arm | seeds | parameters | loss | perplexity | against projections |", "|---|---|---|---|---|---|"]
    first = next(arm for arm in titles if arm.endswith("projected"))
    for arm, own in ((arm, by_arm[arm]) for arm in titles if arm in by_arm):
        apart = "–" if arm == first else _spread([own[seed] - by_arm[first][seed] for seed in own], sign="+")
        perplexity = f"{math.exp(statistics.fmean(own.values())):.3f}"
        size, loss = f"{params[arm] / 1e6:.2f} M", _spread(list(own.values()))
        lines.append(f"| {titles[arm]} | {len(own)} | {size} | {loss} | {perplexity} | {apart} |")
    return lines


def _spread(values: Sequence[float], *, sign: str = "") -> str:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):{sign}.4f} ± {spread:.4f}"
