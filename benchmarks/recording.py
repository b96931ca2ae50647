"""What recording the singular values of all layers takes at one moment of a training: processor seconds and bytes.

    python -m benchmarks.recording OUT.json

Processor time is taken, in one thread, since other work on the machine lengthens it less than wall time. Weights are as they
are at the beginning of a training.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import lrpet
from benchmarks.script import parser_of, write_json
from lrpet import models
from lrpet.train.provenance import provenance
from lrpet.train.spectra import Spectra, moments

#: {name: side of its images in pixels}.
NETWORKS = {"resnet20": 32, "resnet56": 32, "torchvision:resnet50": 224}
ROUNDS = 5


def measure(name: str) -> dict[str, Any]:
    """Record one moment several times, and return the median processor time and the size of its file."""
    torch.manual_seed(0)
    network = models.create(name)
    plan = lrpet.plan(network, torch.zeros(1, 3, NETWORKS[name], NETWORKS[name]), keep=0.4)
    with tempfile.TemporaryDirectory() as folder:
        spectra = Spectra(lrpet.Projector(network, plan, total_steps=1000), Path(folder), wanted=True)
        seconds = []
        for _ in range(ROUNDS):
            begin = time.process_time()
            spectra.record(0, "free")
            seconds.append(time.process_time() - begin)
        (file,) = (Path(folder) / "spectra").iterdir()
        size = file.stat().st_size
    count = len(moments(1000, list(range(500, 1001, 5))))
    return {"processor_seconds_a_moment": statistics.median(seconds), "bytes_a_moment": size, "moments": count}


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = {name: measure(name) for name in NETWORKS}
    write_json(options.out, {**provenance(), "seed": 0, "networks": results})


if __name__ == "__main__":
    main()
