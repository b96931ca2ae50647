"""Look for faults: kills, full disks, power cuts, damaged and hostile files, extreme numbers, and runs that meet.

`python -m benchmarks.faults OUT.json` goes through all loops in less than half an hour on two cores. Each has its share of
the time, and says how many faults it came to and what it found. The exit status is 1 if anything was wrong.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.faults import damaged_files, extremes, full_disk, hostile, kills, operations, power_cuts, runs, together
from benchmarks.faults.forks import Limits
from benchmarks.script import parser_of, write_json
from lrpet.train.provenance import provenance

#: {name: the loop, and its share of the time}.
LOOPS: dict[str, tuple[Callable[[Limits], dict[str, Any]], float]] = {
    "kills": (kills.loop, 0.38),
    "operations": (operations.loop, 0.1),
    "full-disk": (full_disk.loop, 0.05),
    "power-cuts": (power_cuts.loop, 0.09),
    "damaged-files": (damaged_files.loop, 0.26),
    "hostile-files": (hostile.loop, 0.06),
    "extreme-numbers": (extremes.loop, 0.02),
    "together": (together.loop, 0.04),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the loops, and write what they found after each of them."""
    parser = parser_of(__doc__)
    parser.add_argument("output", type=Path, help="file of results, JSON")
    parser.add_argument("--only", nargs="+", choices=LOOPS, default=list(LOOPS), metavar="LOOP", help=", ".join(LOOPS))
    parser.add_argument("--seed", type=int, default=0, help="seed of everything that is drawn [0]")
    parser.add_argument("--minutes", type=float, default=28.0, help="time for all loops together [28]")
    parser.add_argument("--count", type=int, help="cases of every loop, in place of its usual number")
    options = parser.parse_args(arguments)
    results: dict[str, Any] = {**provenance(), "seed": options.seed, "minutes": options.minutes, "loops": {}}
    runs.prepare()
    whole = sum(LOOPS[name][1] for name in options.only)
    for name in options.only:
        loop, share = LOOPS[name]
        began = time.perf_counter()
        found = loop(Limits(options.seed, 60 * options.minutes * share / whole, options.count))
        seconds = round(time.perf_counter() - began, 1)
        results["loops"][name] = {**found, "seconds": seconds}
        write_json(options.output, results)
        print(f"{name}: {_said(found)}, {seconds:.0f} s", flush=True)
    return 0 if all(found.get("passed", True) for found in results["loops"].values()) else 1


def _said(found: dict[str, Any]) -> str:
    if not found["done"]:
        return f"not done: {found['why']}"
    return f"{found['faults']:,} faults, {'all well' if found['passed'] else 'something is WRONG'}"


if __name__ == "__main__":
    sys.exit(main())
