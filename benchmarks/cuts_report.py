"""Sections of RESULTS.md on dense networks that are cut and not retrained, from the result files alone."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.script import read_json, spread

Rows = list[dict[str, Any]]

ALLOCATION = """\
## What singular values count for: {name}

Each of {networks} trained dense networks is cut to a budget by each way of counting. Batch norm is re-estimated, and nothing is
retrained. Accuracy (mean ± standard deviation over the networks) and loss (mean) are those on held-out images.
[`benchmarks/allocation.py`](benchmarks/allocation.py) says what each way is.
"""
ONE_SHOT = """\
## One cut without training: {name}

Each of {networks} trained dense networks, {dense} on held-out images, is cut once, at ranks by energy (`lrpet.compress`).
Batch norm is re-estimated, and nothing is retrained. Accuracy is that on held-out images (mean ± standard deviation over the
networks). [`benchmarks/one_shot.py`](benchmarks/one_shot.py) says what each way is.
"""
DIVISIONS = """\
## Ways to divide a kernel: {name}

Every convolution without a stride, in each of {networks} trained dense networks, is cut to a fraction of its multiply-adds. The
numbers are percentages of its energy that are kept (mean over the layers, ± standard deviation over the networks).
[`benchmarks/divisions.py`](benchmarks/divisions.py) says how ranks are chosen.
"""
#: How kernels are divided, in the words of the table.
KERNELS = {
    "channel": "k×k and 1×1",
    "spatial": "k×1 and 1×k",
    "tucker": "1×1, k×k and 1×1 (Tucker-2)",
    "best": "what keeps more",
}


def sections(folder: Path) -> Iterator[str]:
    """Write the sections in Markdown."""
    for file in sorted(folder.glob("one-shot-*.json")):
        rows = read_json(file)["rows"]
        dense = [row["val_accuracy"] for row in rows if row["way"] == "dense"]
        name = file.stem.removeprefix("one-shot-")
        yield ONE_SHOT.format(name=name, networks=len(dense), dense=spread(dense))
        yield "\n".join(one_shot_table(rows)) + "\n"
    for file in sorted(folder.glob("divisions-*.json")):
        rows = read_json(file)["rows"]
        networks = len({row["network"] for row in rows})
        yield DIVISIONS.format(name=file.stem.removeprefix("divisions-"), networks=networks)
        yield "\n".join(divisions_table(rows)) + "\n"
    for file in sorted(folder.glob("allocation-*.json")):
        measured = read_json(file)
        networks = len({row["network"] for row in measured["rows"]})
        yield ALLOCATION.format(name=file.stem.removeprefix("allocation-"), networks=networks)
        yield "\n".join(allocation_table(measured)) + "\n"


def one_shot_table(rows: Rows) -> list[str]:
    """Write a table in Markdown: for each way of projecting, the accuracy at each budget and division of kernels."""
    cut = [row for row in rows if row["way"] != "dense"]
    columns = list(dict.fromkeys((row["budget"], row["unfolding"]) for row in cut))
    heads = [f"{budget:.0%} of the multiply-adds, {KERNELS[unfolding]}" for budget, unfolding in columns]
    lines = [f"| projected with | {' | '.join(heads)} |", "|" + "---|" * (1 + len(heads))]
    for way in dict.fromkeys(row["way"] for row in cut):
        chosen = [[row["val_accuracy"] for row in cut if (row["way"], row["budget"], row["unfolding"]) == (way, *column)]
                  for column in columns]  # fmt: skip
        lines.append(f"| {way} | {' | '.join(map(spread, chosen))} |")
    return lines


def divisions_table(rows: Rows) -> list[str]:
    """Write a table in Markdown: for each way to divide kernels, the energy that is kept at each budget."""
    budgets, networks = (list(dict.fromkeys(row[key] for row in rows)) for key in ("budget", "network"))
    lines = ["| kernels | " + " | ".join(f"{budget:.0%} of the multiply-adds" for budget in budgets) + " |"]
    lines.append("|" + "---|" * (1 + len(budgets)))
    for division in dict.fromkeys(row["division"] for row in rows):
        kept = [
            [
                statistics.mean(
                    row["kept"]
                    for row in rows
                    if (row["division"], row["budget"], row["network"]) == (division, budget, network)
                )
                for network in networks
            ]
            for budget in budgets
        ]
        lines.append(f"| {KERNELS[division]} | {' | '.join(map(spread, kept))} |")
    return lines


def allocation_table(measured: dict[str, Any]) -> list[str]:
    """Write a table in Markdown: for each way of counting, accuracy and loss at each budget."""
    rows = [row for row in measured["rows"] if row["way"] != "dense"]
    budgets = sorted({row["budget"] for row in rows}, reverse=True)
    heads = [f"{what}, {budget:.0%} of the multiply-adds" for budget in budgets for what in ("accuracy", "loss")]
    lines = [f"| a layer counts by | {' | '.join(heads)} |", "|" + "---|" * (1 + len(heads))]
    for way in dict.fromkeys(row["way"] for row in rows):
        cells = []
        for budget in budgets:
            chosen = [row for row in rows if (row["way"], row["budget"]) == (way, budget)]
            losses = [row["val_loss"] for row in chosen]
            cells += [spread([row["val_accuracy"] for row in chosen]), f"{statistics.mean(losses):.3f}"]
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return lines
