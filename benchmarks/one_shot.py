"""What a cut without any training leaves of a trained network, by how kernels are divided and what is projected.

    python -m benchmarks.one_shot OUT.json --networks DENSE [DENSE …] --data cifar10 --data-dir DATA --macs 0.42 0.21

DENSE are folders of `lrpet.save` with a trained dense network. Each is cut to each budget in each of these ways, at any ranks,
by energy. Its batch norms' statistics are re-estimated on training images, and it is scored on the images held out by the seed
of its training.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import lrpet
from benchmarks.allocation import BATCHES, parsed, seed_of
from benchmarks.script import write_json
from lrpet.train.config import make_config
from lrpet.train.measure import score
from lrpet.train.provenance import provenance
from lrpet.train.task import Task

UNFOLDINGS = ("channel", "best")
#: {way: what `lrpet.compress` is told}.
WAYS: dict[str, dict[str, Any]] = {
    "rectification and energy transfer": {"rectify": True},
    "rectification": {"rectify": True, "energy_transfer": False},
    "energy transfer": {"rectify": False},
    "neither": {"rectify": False, "energy_transfer": False},
    "metric of the outputs": {"rectify": False},
    "metric of the outputs, rectified": {"rectify": True},
}
#: Images on which the outputs are looked at.
IMAGES = 512


def measure(folder: Path, given: argparse.Namespace) -> list[dict[str, Any]]:
    """Score one dense network, and its cuts: a row for each."""
    settings = {"model": given.model, "data": given.data, "data_dir": given.data_dir, "method": "dense"}
    config = make_config({**settings, "weights": folder, "seed": seed_of(folder)})
    task = Task.of(config)
    network, device = task.network.eval(), torch.device("cpu")

    def batches() -> Any:
        return itertools.islice(task.batches(task.train, device, training=True), BATCHES)

    def row(model: torch.nn.Module, **said: Any) -> dict[str, Any]:
        result = score(model, task.batches(task.validation, device, training=False))
        found = {"network": folder.parent.name, **said, "val_accuracy": result.accuracy, "val_loss": result.loss}
        print(found, flush=True)
        return found

    rows = [row(network, way="dense", macs=1.0)]
    images = torch.cat([batch for batch, _ in itertools.islice(batches(), -(-IMAGES // config.batch_size))])[:IMAGES]
    for macs, unfolding, (way, options) in itertools.product(given.macs, UNFOLDINGS, WAYS.items()):
        calibration = [images] if "outputs" in way else None
        compact = lrpet.compress(
            network,
            task.example,
            macs=macs,
            multiple_of=1,
            unfolding=unfolding,
            batches=batches(),
            calibration=calibration,
            **options,
        )
        rows.append(row(compact, way=way, unfolding=unfolding, budget=macs))
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    given = parsed(__doc__, argv, macs=(0.42, 0.21))
    source = provenance()
    rows = [row for folder in given.networks for row in measure(folder, given)]
    write_json(given.out, {**source, "seed": [*map(seed_of, given.networks)], "images": IMAGES, "rows": rows})


if __name__ == "__main__":
    main()
