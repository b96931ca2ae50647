"""Tables in Markdown of what `benchmarks.sharding` measured and computed, for docs/scaling.md."""

from __future__ import annotations

from typing import Any

#: What is assumed of a GPU: float32 products of which a projection consists, and sending within a machine and between machines.
FLOPS, WITHIN, BETWEEN = 30e12, 200e9, 25e9
GPUS_IN_A_MACHINE = 8


def measured_table(rows: list[dict[str, Any]]) -> list[str]:
    """Write time, bytes and memory of a warm projection by numbers of processes."""
    first, solving = rows[0]["seconds"], rows[0]["solving"]
    lines = [
        "| processes | weights | ms | of one process | ms solving | of one process | MB sent by one | MB its peak grew |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        name = "whole" if row["processes"] == 1 else row["weights"]
        numbers = [f"{1e3 * row['seconds']:.0f}", f"{row['seconds'] / first:.2f}"]
        numbers += [f"{1e3 * row['solving']:.0f}", f"{row['solving'] / solving:.2f}"]
        numbers += [f"{row['sent'] / 1e6:.0f}", f"{row['peak_growth'] / 1e6:.0f}"]
        lines.append(f"| {row['processes']} | {name} | {' | '.join(numbers)} |")
    return lines


def computed_table(rows: list[dict[str, Any]]) -> list[str]:
    """Write how even the work is, what is sent and held, and the times that follow from what is assumed of a GPU."""
    lines = [
        "| network | GPUs | largest share of the work | replicated: GB broadcast | sharded: GB received at most, each way "
        "| held at most, GB | replicated, ms | sharded, ms |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        speed = WITHIN if row["processes"] <= GPUS_IN_A_MACHINE else BETWEEN
        solving = row["most_flops"] / FLOPS
        replicated = solving + row["replicated_broadcast"] / speed
        sharded = solving + 2 * row["sharded_received_at_most"] / speed
        sizes = ("replicated_broadcast", "sharded_received_at_most", "sharded_held_at_most")
        gigabytes = [f"{row[name] / 1e9:.2f}" for name in sizes]
        cells = [row["network"], f"{row['processes']:,}", f"1/{1 / row['share']:.0f}", *gigabytes]
        lines.append(f"| {' | '.join([*cells, f'{1e3 * replicated:.1f}', f'{1e3 * sharded:.1f}'])} |")
    return lines
