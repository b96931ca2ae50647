"""Tables in Markdown of what `benchmarks.generation` measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

FILE = "generation.json"
PHASES = {"decode": "decode", "prompt": "prompt of 256"}
RUNTIMES = {
    "eager": "eager",
    "optimized": "eager, `lrpet.optimize`",
    "compile": "torch.compile",
    "onnxruntime": "ONNX Runtime",
}
HEAD = (
    "| model | phase | texts | runtime | dtype | dense, tokens/s | compact, tokens/s | time | multiply-adds | realised |",
    "|---|---|---|---|---|---|---|---|---|---|",
)
GAINS_HEAD = ("| model | one text decoded | 8 texts decoded | prompt |", "|---|---|---|---|")
MEMORY_HEAD = ("| model | parameters | float32 | bfloat16 |", "|---|---|---|---|")


def speed_table(results: Mapping[str, Any]) -> list[str]:
    """Write a line for each size, phase, batch size, runtime and dtype."""
    return [*HEAD, *_speeds(results)]


def memory_table(results: Mapping[str, Any]) -> list[str]:
    """Write by how many megabytes a process grows that loads a model and generates with it."""
    lines = list(MEMORY_HEAD)
    for size in results["sizes"].values():
        for network, memory in size["memory"].items():
            cells = (f"{memory[dtype] / 1e6:.0f} MB" for dtype in ("float32", "bfloat16"))
            lines.append(_line([f"{size['title']}, {network}", f"{size['params'][network] / 1e6:.1f} M", *cells]))
    return lines


def gains_table(results: Mapping[str, Any]) -> list[str]:
    """Write by what part `lrpet.optimize` changes the tokens per second of eager networks in float32."""
    lines = list(GAINS_HEAD)
    for size in results["sizes"].values():
        for network in ("dense", "compact"):
            speeds: dict[str, list[float]] = {
                runtime: [
                    row["tokens_per_second"][network]
                    for row in size["rows"]
                    if (row["runtime"], row["dtype"]) == (runtime, "float32")
                ]
                for runtime in ("eager", "optimized")
            }
            gains = [ours / theirs - 1 for ours, theirs in zip(speeds["optimized"], speeds["eager"], strict=True)]
            lines.append(_line([f"{size['title']}, {network}", *(f"{100 * gain:+.0f} %" for gain in gains)]))
    return lines


def _speeds(results: Mapping[str, Any]) -> Iterator[str]:
    for size in results["sizes"].values():
        for row in size["rows"]:
            low, high = row["time_quartiles"]
            yield _line(
                [
                    size["title"],
                    PHASES[row["phase"]],
                    str(row["batch_size"]),
                    RUNTIMES[row["runtime"]],
                    row["dtype"],
                    *(f"{row['tokens_per_second'][network]:,.0f}" for network in ("dense", "compact")),
                    f"{row['time']:.2f} ({low:.2f}–{high:.2f})",
                    f"{row['cost']:.2f}",
                    f"{row['realised']:.0%}".replace("%", " %"),
                ]
            )


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
