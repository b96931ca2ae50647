"""Which ranks a layer is fast at: the time of a factor pair at rank after rank, in chains of pairs.

    python -m benchmarks.rank_multiples OUT.json [--runtimes NAME …] [--seconds 0.1]

A chain of pairs with activations between them is what a network is made of; one pair alone would be timed with the conversion
of its input and output. All ranks of a chain are timed in turns. Weights are random: they do not change the time.
"""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from benchmarks.script import parser_of, write_json
from lrpet.latency.measure import raced
from lrpet.latency.runtimes import Runtime, ready_together
from lrpet.layers.inputs import Inputs
from lrpet.train.provenance import provenance

#: Pairs in a chain.
LENGTH = 4
#: From one below a multiple of 8 to one above the next, and so on: steps show where time is paid for a whole block.
RANKS = tuple(rank for multiple in range(8, 80, 8) for rank in (multiple - 3, multiple, multiple + 1))


@dataclass(frozen=True)
class Chain:
    """Pairs of one kind and width on images or tokens of one size."""

    kind: Literal["3×3", "1×1", "linear"]
    width: int
    side: int
    """Side of the images in pixels; of linears, the number of tokens."""

    def input(self) -> Tensor:
        if self.kind == "linear":
            return torch.randn(1, self.side, self.width)
        return torch.randn(1, self.width, self.side, self.side)

    def at(self, rank: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for _ in range(LENGTH):
            if self.kind == "linear":
                layers += [nn.Linear(self.width, rank, bias=False), nn.Linear(rank, self.width)]
            else:
                size = int(self.kind[0])
                first = nn.Conv2d(self.width, rank, size, padding=size // 2, bias=False)
                layers += [first, nn.Conv2d(rank, self.width, 1)]
            layers.append(nn.ReLU())
        return nn.Sequential(*layers).eval()


CHAINS = (
    *(Chain("3×3", width, side) for width, side in ((64, 56), (128, 28), (256, 14), (512, 7))),
    *(Chain("1×1", width, side) for width, side in ((256, 28), (512, 14))),
    Chain("linear", 384, 197),
)


@torch.no_grad()
def times_of(chain: Chain, runtime: Runtime, *, seconds: float) -> dict[int, float]:
    """Return {rank: median milliseconds of a chain}."""
    torch.manual_seed(0)
    ranks = [rank for rank in RANKS if rank <= chain.width]
    inputs = Inputs.of(chain.input())
    passes = ready_together({str(rank): chain.at(rank) for rank in ranks}, inputs, runtime)
    times = raced(passes, seconds=seconds, device=inputs.device)
    return {rank: statistics.median(times[str(rank)]) for rank in ranks}


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("out", type=Path, help="file that the times are written to")
    parser.add_argument(
        "--runtimes", nargs="+", choices=get_args(Runtime), default=["onnxruntime", "openvino", "eager"]
    )
    parser.add_argument("--seconds", type=float, default=0.2, help="spent on each chain at each rank")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for chain in CHAINS:
        for runtime in options.runtimes:
            times = times_of(chain, runtime, seconds=options.seconds)
            rows.append(
                {"kind": chain.kind, "width": chain.width, "side": chain.side, "runtime": runtime, "ranks": times}
            )
            print(json.dumps(rows[-1]), flush=True)
    write_json(options.out, {**provenance(), "seed": 0, "length": LENGTH, "seconds": options.seconds, "rows": rows})


if __name__ == "__main__":
    main()
