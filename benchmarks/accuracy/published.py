"""The networks and budgets of published results, one after another, as many at once as a GPU takes.

    python -m benchmarks.accuracy.published RESULTS --data-dir DATA --epochs 200 --jobs 6 [--minutes 14] \\
        --device cuda --precision bf16 --channels-last --cuda-graphs

Ranks are those of the published pruning ratios. Each point is trained by LRPET, beside the dense network, and by SVD and
retraining. LRPET goes on from the first half of the dense network's training. With --methods others can be had: LRPET by its
authors' schedule and settings is `lrpet_published`. A call goes on where the last one stopped. Where processes share a GPU,
NVIDIA's MPS (`nvidia-cuda-mps-control -d`) lets their kernels run side by side.
"""

from __future__ import annotations

import argparse
import itertools
import sys

from benchmarks.accuracy.cell import add_options
from benchmarks.accuracy.grid import add_running, compute
from benchmarks.accuracy.methods import METHODS
from benchmarks.accuracy.run import Cell
from benchmarks.script import parser_of

#: {network: fractions of every rank}: 1 − p for the pruning ratio p of LRPET's authors, and one with 72 % of the multiply-adds
#: cut for ResNet-56, where NORTON's result is.
POINTS = {"resnet56": (0.43, 0.28), "resnet110": (0.35,), "vgg16_bn": (0.22,)}
DEFAULT = ("lead_best", "svd_retrain_by_energy_plain")


def cells(given: argparse.Namespace) -> list[Cell]:
    """List what is to be computed: seeds outermost, and each method at all of a network's points."""
    chosen = []
    for seed, (model, keeps) in itertools.product(given.seeds, POINTS.items()):
        if model in given.models:
            chosen += [
                Cell(model, "cifar10", method, keep, given.epochs, seed)
                for method, keep in itertools.product(given.methods, keeps)
            ]
            chosen.append(Cell(model, "cifar10", "dense", None, given.epochs, seed))
    return chosen


def main(argv: list[str] | None = None) -> int:
    parser = parser_of(__doc__)
    add_options(parser)
    add_running(parser)
    parser.add_argument("--models", nargs="+", choices=POINTS, default=list(POINTS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(DEFAULT))
    given = parser.parse_args(argv)
    return compute(cells(given), given)


if __name__ == "__main__":
    sys.exit(main())
