"""The projection's share of training time, at the paper's intervals.

    python -m benchmarks.training_share OUT.json [--device cpu]

Training steps and warm projections are timed in one process. A step is timed on part of the paper's batch and scaled up to
the whole one. Every step trains on the same random images, because no time depends on what is learned. Projections are warm
ones, of weights that have moved since the last projection.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

import lrpet
from benchmarks.script import clock, parser_of, write_json
from lrpet import models
from lrpet.train.provenance import provenance

#: {name: (model, keep, image size, the paper's batch, the paper's interval in steps, the batch that is timed)}.
CASES: dict[str, tuple[str, float, int, int, int, int]] = {
    "resnet56 on CIFAR-10": ("resnet56", 0.43, 32, 128, 391, 64),
    "resnet50 at 224 pixels": ("torchvision:resnet50", 0.38, 224, 256, 250, 8),
}


def measure(case: str, device: torch.device, *, rounds: int = 5) -> dict[str, Any]:
    """Time steps and projections in turn, and return their medians and the projections' share."""
    name, keep, side, batch, every, timed_batch = CASES[case]
    torch.manual_seed(0)
    network = models.create(name).to(device)
    images, labels = (
        torch.randn(timed_batch, 3, side, side, device=device),
        torch.arange(timed_batch, device=device) % 10,
    )
    plan = lrpet.plan(network, images[:1], keep=keep)
    projector = lrpet.Projector(network, plan, start=0, every=10**9)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)

    def step() -> None:
        torch.autograd.backward(F.cross_entropy(network(images), labels))
        optimizer.step()
        optimizer.zero_grad()

    step()
    projector.project()
    steps, projections = [], []
    for _ in range(rounds):
        begin = clock(device)
        for _ in range(2):
            step()
        middle = clock(device)
        projector.project()
        steps.append((middle - begin) / 2 * batch / timed_batch)
        projections.append(clock(device) - middle)
    a_step, a_projection = statistics.median(steps), statistics.median(projections)
    return {
        "batch": batch,
        "every": every,
        "timed_batch": timed_batch,
        "seconds_a_step": a_step,
        "seconds_a_projection": a_projection,
        "solved_again": projector.solved_again,
        "share": a_projection / (every * a_step + a_projection),
    }


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    results: dict[str, Any] = {**provenance(), "seed": 0, "cases": {}}
    for case in CASES:
        results["cases"][case] = measure(case, torch.device(options.device))
        print(case, json.dumps(results["cases"][case]))
    write_json(options.out, results)


if __name__ == "__main__":
    main()
