"""What singular values should count for when a budget is divided: trained networks, cut without retraining.

    python -m benchmarks.allocation OUT.json --networks DENSE [DENSE …] --data cifar10 --data-dir DATA --macs 0.45 0.29

DENSE are folders of `lrpet.save` with a trained dense network. Each is cut to each budget by each way of counting. Its batch
norms' statistics are re-estimated on training images. It is scored on the images held out by the seed of its training. These
are the ways:

    uniform       the same fraction of every rank
    threshold     the same fraction of energy pruned from every layer
    fraction      the fraction of its folded energy that a layer keeps (`allocate="energy"`)
    unfolded      the fraction of its energy that a layer keeps, its batch norm not folded in
    absolute      the folded energy that a layer keeps
    logarithm     the logarithm of the fraction, which makes the sum a product of all fractions
    sensitivity   the second order of the loss (`lrpet.sensitivity`)
    layers        the fraction, times what the whole layer is worth by `lrpet.sensitivity`
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn

import lrpet
from benchmarks.script import parser_of, write_json
from lrpet.planning.spectra import energies
from lrpet.train.config import make_config
from lrpet.train.measure import score
from lrpet.train.provenance import provenance
from lrpet.train.task import Task

#: Batches of training images, for sensitivity and for batch norm's statistics.
BATCHES = 64

Worths = dict[str, list[float]]


def worths_of(network: nn.Module, task: Task, batches: Callable[[], Any]) -> dict[str, str | Worths]:
    """Return, for each way of counting, what `lrpet.plan` takes as `allocate`."""
    whole = lrpet.plan(network, task.example, keep=1.0, factorize_all=True)
    bare = lrpet.plan(network, task.example, keep=1.0, factorize_all=True, rectify=False)
    folded, unfolded = energies_of(network, whole), energies_of(network, bare)

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    sensitivity = lrpet.sensitivity(network, whole, batches(), loss)
    fraction = {name: [value / sum(values) for value in values] for name, values in folded.items()}
    logarithm = {}
    for name, values in fraction.items():
        kept = [max(1e-30, sum(values[: i + 1])) for i in range(len(values))]
        logarithm[name] = [0.0, *(max(0.0, math.log(b / a)) for a, b in itertools.pairwise(kept))]
    return {
        "uniform": "uniform",
        "threshold": "threshold",
        "fraction": fraction,
        "unfolded": {name: [value / sum(values) for value in values] for name, values in unfolded.items()},
        "absolute": folded,
        "logarithm": logarithm,
        "sensitivity": sensitivity,
        "layers": {name: [sum(sensitivity[name]) * value for value in values] for name, values in fraction.items()},
    }


def energies_of(network: nn.Module, plan: lrpet.Plan) -> Worths:
    """Return squared singular values of each weight, folded with the batch norm that the plan pairs it with."""
    return {name: energies(layer).sum(0).tolist() for name, layer in plan.bind(network).items()}


def measure(folder: Path, given: argparse.Namespace) -> list[dict[str, Any]]:
    """Score one dense network, and its cuts by every way to every budget: a row for each."""
    settings = {"model": given.model, "data": given.data, "data_dir": given.data_dir, "method": "dense"}
    config = make_config({**settings, "weights": folder, "seed": seed_of(folder)})
    task = Task.of(config)
    network = task.network.eval()
    device = torch.device("cpu")

    def batches() -> Any:
        return itertools.islice(task.batches(task.train, device, training=True), BATCHES)

    def scored(model: nn.Module) -> Mapping[str, float]:
        result = score(model, task.batches(task.validation, device, training=False))
        return {"val_accuracy": result.accuracy, "val_loss": result.loss}

    rows: list[dict[str, Any]] = [{"network": folder.parent.name, "way": "dense", "macs": 1.0, **scored(network)}]
    for (way, allocate), macs in itertools.product(worths_of(network, task, batches).items(), given.macs):
        options: dict[str, Any] = {"allocate": allocate, "multiple_of": 1, "unfolding": "channel"}
        plan = lrpet.plan(network, task.example, macs=macs, **options)
        compact = lrpet.factorize(network, plan)
        update_bn(batches(), compact)
        row = {"way": way, "macs": plan.macs / plan.macs_dense, "budget": macs, **scored(compact), "ranks": plan.ranks}
        rows.append({"network": folder.parent.name, **row})
        print(f"{folder.parent.name} {way} {macs:g}: {row['val_accuracy']:.2%}, loss {row['val_loss']:.3f}", flush=True)
    return rows


def seed_of(folder: Path) -> int:
    """Return the seed in which the harness's folder ends, by which its data was split."""
    return int(folder.parent.name.rsplit("-", 1)[-1])


def parsed(description: str | None, argv: Sequence[str] | None, *, macs: Sequence[float]) -> argparse.Namespace:
    """Read the options of a benchmark that cuts trained networks; `macs` are its budgets by default."""
    parser = parser_of(description)
    parser.add_argument("out", type=Path)
    parser.add_argument("--networks", nargs="+", type=Path, required=True)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--macs", nargs="+", type=float, default=list(macs))
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    given = parsed(__doc__, argv, macs=(0.45, 0.29))
    source = provenance()
    rows = [row for folder in given.networks for row in measure(folder, given)]
    write_json(given.out, {**source, "seed": [*map(seed_of, given.networks)], "rows": rows})


if __name__ == "__main__":
    main()
