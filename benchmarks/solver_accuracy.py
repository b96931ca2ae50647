"""Whether training with fast projections is as accurate as with full SVDs: equal runs, seed by seed.

    python -m benchmarks.solver_accuracy OUT.json [--seeds 5] [--epochs 12]

ResNet-20 is trained on 8×8 digits at keep 0.38, with a projection every 10 steps.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.script import parser_of, write_json
from lrpet.train.config import make_config
from lrpet.train.console import Console
from lrpet.train.provenance import provenance
from lrpet.train.run import train

RECIPE = {
    "model": "resnet20",
    "data": "digits",
    "keep": 0.38,
    "every": 10,
    "start": 0.0,
    "batch_size": 64,
    "device": "cpu",
}


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=12)
    options = parser.parse_args()
    results: dict[str, Any] = {**provenance(), "seed": list(range(options.seeds))}
    results |= {"recipe": {**RECIPE, "epochs": options.epochs}, "test_accuracy": {}}
    accuracies: dict[str, list[float]] = {"auto": [], "svd": []}
    projecting: dict[str, list[float]] = {"auto": [], "svd": []}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seeds):
            for solver in accuracies:
                output = Path(folder) / f"{solver}-{seed}"
                settings = {**RECIPE, "epochs": options.epochs, "seed": seed, "solver": solver, "output": output}
                summary = train(make_config(settings), console=Console(quiet=True))
                accuracies[solver].append(summary["test_accuracy"])
                projecting[solver].append(summary["seconds"]["projecting"])
    for solver, values in accuracies.items():
        results["test_accuracy"][solver] = {
            "by_seed": values,
            "mean": statistics.mean(values),
            "standard_deviation": statistics.stdev(values),
            "seconds_projecting": statistics.median(projecting[solver]),
        }
    write_json(options.out, results)
    print(json.dumps(results["test_accuracy"], indent=1))


if __name__ == "__main__":
    main()
