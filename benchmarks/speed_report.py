"""Tables in Markdown of what `benchmarks.speed` measured, for each instruction set or GPU it ran on."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.script import read_json
from benchmarks.speed import ANY_RANK, CASES, CHANNEL

NAMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "eager": "PyTorch"}
#: The processors, as files and as tables name them: by instruction sets, the first of which has all cases, and a GPU.
PROCESSORS = {"avx512": "AVX-512", "avx2": "AVX2", "h200": "H200"}
MACS_HEAD = (
    "| network | budget | runtime | images | dense ms | compact ms | time | multiply-adds | realised | time, any rank "
    "| time, k×k and 1×1 |",
    "|---|---|---|---|---|---|---|---|---|---|---|",
)
TIMED_HEAD = (
    "| network | runtime | images | lowest budget met | planned | predicted | measured again | multiply-adds |",
    "|---|---|---|---|---|---|---|---|",
)
Results = list[dict[str, Any]]


def read(folder: Path, processor: str) -> tuple[Results, Results]:
    """Return the results of plans by multiply-adds, and of plans by time, in the order of the benchmark's cases."""
    files = (folder / f"speed-{name}-{processor}.json" for name in CASES)
    results = [read_json(file) for file in files if file.exists()]
    return [each for each in results if "rows" in each], [each for each in results if "timed" in each]


def macs_table(results: Iterable[dict[str, Any]]) -> list[str]:
    """Write what plans with default settings realise, and what others take for an equal budget."""
    lines = list(MACS_HEAD)
    for result in results:
        rows = {(row["network"], row["runtime"], row["batch_size"]): row for row in result["rows"]}
        for (network, runtime, size), row in rows.items():
            if network == "dense" or "," in network:
                continue
            dense = rows["dense", runtime, size]
            others = (rows.get((f"{network}, {what}", runtime, size)) for what in (ANY_RANK, CHANNEL))
            cells = [
                result["title"],
                network.removeprefix("macs="),
                NAMES[runtime],
                str(size),
                _milliseconds(dense),
                _milliseconds(row),
                f"{row['time_ratio']:.2f}",
                f"{row['cost_ratio']:.2f}",
                _percent(row["realised"]),
                *("–" if other is None else f"{other['time_ratio']:.2f}" for other in others),
            ]
            lines.append(_line(cells))
    return lines


def short_table(results: Iterable[dict[str, Any]]) -> list[str]:
    """Write the times of plans with default settings, one line for each network and budget."""
    results = list(results)
    columns = list(dict.fromkeys((row["runtime"], row["batch_size"]) for each in results for row in each["rows"]))
    head = [f"{NAMES[runtime]}, {size}" for runtime, size in columns]
    lines = [_line(["network", "multiply-adds", *head]), "|" + "---|" * (2 + len(head))]
    for result in results:
        rows = {(row["network"], row["runtime"], row["batch_size"]): row for row in result["rows"]}
        for network in dict.fromkeys(row["network"] for row in result["rows"]):
            if network != "dense" and "," not in network:
                some = [rows[network, *column] for column in columns]
                cells = [f"{row['time_ratio']:.2f} ({_percent(row['realised'])})" for row in some]
                lines.append(_line([result["title"], f"{some[0]['cost_ratio']:.2f}", *cells]))
    return lines


def timed_table(results: Iterable[dict[str, Any]]) -> list[str]:
    """Write what plans for a runtime and batch size take, as fractions of the dense network's time."""
    lines = list(TIMED_HEAD)
    for result in results:
        for row in result["timed"]:
            cells = [result["title"], NAMES[row["runtime"]], str(row["batch_size"])]
            if "budget" not in row:
                cells += ["none: stays dense", "", "", "", ""]
            else:
                compact = next(each for each in row["rows"] if each["network"] == "compact")
                budget = next(part for part in row["budget"].split() if part.startswith("latency="))
                fractions = (row["measured"] / row["dense"], row["predicted"] / row["dense"], compact["time_ratio"])
                cells += [budget.removeprefix("latency="), *(f"{each:.2f}" for each in fractions)]
                cells.append(f"{compact['cost_ratio']:.2f}")
            lines.append(_line(cells))
    return lines


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _milliseconds(row: dict[str, Any]) -> str:
    return f"{row['milliseconds']:.{1 if row['runtime'] != 'eager' else 2}f}"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.0f} %"
