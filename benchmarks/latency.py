"""Whether latency budgets come true: whole compact networks are timed, and compared with the table's prediction.

    python -m benchmarks.latency OUT [--cases NAME …]

For each case a table is measured as `lrpet profile-latency` does. Ranks are then chosen twice: for a latency budget by the
table, and without a table for the same fraction of multiply-adds, as if multiply-adds were time. The dense network and the
compact ones are timed in turns, in one process. Weights are random: they do not change the time.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

import lrpet
from benchmarks.script import parser_of, write_json
from lrpet import models
from lrpet.latency.measure import latency
from lrpet.latency.profile import profile_latency
from lrpet.latency.runtimes import Runtime
from lrpet.train.provenance import provenance

#: {name: (what is timed, model, image size, batch, runtime)}.
CASES: dict[str, tuple[str, str, int, int, Runtime]] = {
    "resnet50-eager": ("ResNet-50, one image", "torchvision:resnet50", 224, 1, "eager"),
    "resnet50-onnxruntime": ("ResNet-50, one image, ONNX Runtime", "torchvision:resnet50", 224, 1, "onnxruntime"),
    "vit_b_16-eager": ("ViT-B/16, one image", "torchvision:vit_b_16", 224, 1, "eager"),
    "resnet56-eager": ("ResNet-56, 64 images of CIFAR-10", "resnet56", 32, 64, "eager"),
    "resnet20-compile": ("ResNet-20, 64 images of CIFAR-10, compiled", "resnet20", 32, 64, "compile"),
}
BUDGETS = (0.8, 0.6)
#: Ranks are multiples of this, in the table and in the plans made by it.
MULTIPLE = 8


def measure(case: str, *, seconds: float) -> dict[str, Any]:
    """Return times, predicted and measured, and multiply-adds, as fractions of the dense network's."""
    title, name, side, batch, runtime = CASES[case]
    torch.manual_seed(0)
    network, example = models.create(name).eval(), torch.randn(batch, 3, side, side)
    table = profile_latency(network, example, runtime=runtime, multiple_of=MULTIPLE, seconds=seconds / 10)
    plans: dict[str, lrpet.Plan] = {}
    refused: dict[str, str] = {}
    for budget in BUDGETS:
        try:
            plans[f"latency={budget}"] = lrpet.plan(
                network, example, latency=budget, latency_table=table, multiple_of=MULTIPLE
            )
        except ValueError as error:
            refused[f"latency={budget}"] = str(error)
        plans[f"macs={budget}"] = lrpet.plan(network, example, macs=budget, multiple_of=1)
    networks = {"dense": network, **{name: lrpet.factorize(network, plan) for name, plan in plans.items()}}
    times = latency(networks, example, runtime=runtime, seconds=seconds)
    return {
        "case": title,
        "dense_milliseconds": times["dense"],
        "layers_milliseconds": sum(table.dense.values()),
        "refused": refused,
        "plans": {
            name: {
                "predicted": _predicted(table, plan) / table.network,
                "measured": times[name] / times["dense"],
                "macs": plan.macs / plan.macs_dense,
                "factorised": len(plan.ranks),
                "layers": len(plan.layers),
            }
            for name, plan in plans.items()
        },
    }


def _predicted(table: lrpet.LatencyTable, plan: lrpet.Plan) -> float:
    saved = (table.dense[name] - table.milliseconds(name, plan.ranks.get(name)) for name in table.dense)
    return table.network - sum(saved)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("out", type=Path, help="folder in which a file is written for each case")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument(
        "--seconds", type=float, default=3.0, help="spent on each network; a tenth of it on each layer at each rank"
    )
    options = parser.parse_args()
    for case in options.cases:
        result = {**provenance(), "seed": 0, "seconds": options.seconds, **measure(case, seconds=options.seconds)}
        write_json(options.out / f"latency-{case}.json", result)
        print(json.dumps(result, indent=1), flush=True)


if __name__ == "__main__":
    main()
