"""The demo's accuracies with several seeds: those of the networks and of the batches; the digits stay.

python -m benchmarks.demo_seeds OUT.json [--seeds 0 1 2 3 4]
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.script import parser_of, read_json, write_json
from lrpet.train.provenance import provenance

EXAMPLES = Path(__file__).parents[1] / "examples"


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("out", type=Path, help="file that the results are written to")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    options = parser.parse_args()
    sys.path.insert(0, str(EXAMPLES))
    import demo

    runs: dict[int, Any] = {}
    for seed in options.seeds:
        with tempfile.TemporaryDirectory() as folder:
            demo.main(Path(folder) / "demo", replace(demo.Settings(), seed=seed, seconds=0.02))
            arms = read_json(Path(folder) / "demo" / "demo.json")["arms"]
        runs[seed] = {name: {key: arm[key] for key in ("validation", "accuracy")} for name, arm in arms.items()}
    names = list(runs[options.seeds[0]])
    found = {name: [100 * run[name]["accuracy"] for run in runs.values()] for name in names}
    means = {name: {"mean": statistics.mean(each), "deviation": statistics.stdev(each)} for name, each in found.items()}
    write_json(options.out, {**provenance(), "seed": options.seeds, "runs": runs, "test_accuracy": means})
    for name, each in means.items():
        print(f"{name}: {each['mean']:.1f} ± {each['deviation']:.1f}")


if __name__ == "__main__":
    main()
