"""What `lrpet.optimize` is worth: dense and compact networks, as they are and optimised, all timed in turns.

    python -m benchmarks.optimize OUT [--networks NAME …] [--runtimes NAME …] [--batch-sizes N …]

`realised` is the part of the cut in multiply-adds that is a cut in time: compact against dense, both as they are, and both
optimised. Weights are random: they do not change the time. Cases are added to what OUT has of this commit, so that the
measuring can be divided among several quiet moments.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

import lrpet
from benchmarks.script import parser_of, read_json, write_json
from lrpet import models
from lrpet.compact.optimize import optimize
from lrpet.latency.bench import bench
from lrpet.latency.results import Bench
from lrpet.latency.runtimes import Runtime
from lrpet.train.provenance import provenance

NETWORKS = ("torchvision:resnet18", "torchvision:resnet50")
BUDGETS = (0.45, 0.25)
RUNTIMES: tuple[Runtime, ...] = ("eager", "compile")
BATCH_SIZES = (1, 16)
FORMS = ("as it is", "optimised")


def contenders(name: str) -> dict[str, nn.Module]:
    """Return {name, form: network}: the dense network and a compact one for every budget, as they are and optimised."""
    torch.manual_seed(0)
    example = torch.randn(1, 3, 224, 224)
    networks = {"dense": models.create(name, num_classes=1000).eval()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # weights that are cut off: time does not depend on them
        for budget in BUDGETS:
            networks[f"macs={budget}"] = lrpet.factorize(
                networks["dense"], lrpet.plan(networks["dense"], example, macs=budget)
            )
    forms = {FORMS[0]: networks, FORMS[1]: {name: optimize(each, example) for name, each in networks.items()}}
    return {f"{name}, {form}": network for form, made in forms.items() for name, network in made.items()}


def compared(result: Bench) -> list[dict[str, Any]]:
    """Return milliseconds of every contender, and what each compact one realises against the dense one of its form."""
    rows = {row.network: row for row in result.rows}
    found: list[dict[str, Any]] = []
    for (name, row), form in itertools.product(rows.items(), FORMS):
        if not name.endswith(f", {form}"):
            continue
        dense, cost = rows[f"dense, {form}"], row.cost.macs / rows[f"dense, {form}"].cost.macs
        time = row.milliseconds / dense.milliseconds
        found.append(
            {
                "network": name.partition(",")[0],
                "form": form,
                "milliseconds": row.milliseconds,
                "quartiles": list(row.quartiles),
                "rounds": row.rounds,
                "cost": cost,
                "time": time,
                "realised": None if row is dense else (1 - time) / (1 - cost),
                "of_dense_as_it_is": row.milliseconds / rows[f"dense, {FORMS[0]}"].milliseconds,
            }
        )
    return found


def measured(name: str, runtime: Runtime, batch_size: int, *, seconds: float) -> dict[str, Any]:
    """Return one case: a race of all contenders."""
    result = bench(
        contenders(name),
        torch.randn(1, 3, 224, 224),
        runtimes=(runtime,),
        batch_sizes=(batch_size,),
        seconds=seconds,
        optimized=False,  # half of them already are
    )
    case = {"model": name, "runtime": runtime, "batch_size": batch_size}
    return {**case, "doubts": result.doubts(), "contenders": compared(result)}


def merged(path: Path, case: Mapping[str, Any]) -> list[Any]:
    """Return the cases that the file has of this commit and processor, and this one in the place of an earlier one."""
    before = read_json(path) if path.exists() else {}
    here = provenance()
    usable = all(before.get(key) == here[key] for key in ("commit", "hardware", "versions"))
    key = ("model", "runtime", "batch_size")
    kept = [each for each in before["cases"] if any(each[k] != case[k] for k in key)] if usable else []
    return sorted([*kept, case], key=lambda each: [str(each[k]) for k in key])


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("out", type=Path, help="file of results, such as benchmarks/results/optimize.json")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=list(RUNTIMES))
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=list(BATCH_SIZES))
    parser.add_argument("--seconds", type=float, default=4.0, help="spent on each contender in each case")
    options = parser.parse_args()
    for name, runtime, size in itertools.product(options.networks, options.runtimes, options.batch_sizes):
        case = measured(name, runtime, size, seconds=options.seconds)
        results = {**provenance(), "seed": 0, "seconds": options.seconds, "cases": merged(options.out, case)}
        write_json(options.out, results)
        for each in case["contenders"]:
            realised = "" if each["realised"] is None else f" realised {each['realised']:.0%}"
            print(
                f"{name} {runtime} {size}: {each['network']:10} {each['form']:10} "
                f"{each['milliseconds']:8.2f} ms  time {each['time']:.3f} cost {each['cost']:.3f}{realised}",
                flush=True,
            )
        print(*case["doubts"], sep="\n", flush=True)


if __name__ == "__main__":
    main()
