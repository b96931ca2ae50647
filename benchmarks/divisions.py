"""How much energy of trained kernels their factors keep at equal multiply-adds, by how the kernels are divided.

    python -m benchmarks.divisions OUT.json --networks DENSE [DENSE …] --macs 0.42 0.21

DENSE are folders of `lrpet.save` with a trained dense network. Every convolution without a stride and with a kernel above 1×1
is cut to a fraction of its multiply-adds:

- "channel": a k×k and a 1×1 convolution, as in the paper
- "spatial": a k×1 and a 1×k one (Jaderberg, Vedaldi, Zisserman, 2014)
- "tucker": a 1×1, a k×k and a 1×1 one (Tucker-2 of Kim et al., 2016), at the pair of ranks that keeps most, by `SWEEPS` of
  higher-order orthogonal iteration (De Lathauwer, De Moor, Vandewalle, 2000)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import lrpet
from benchmarks.allocation import parsed, seed_of
from benchmarks.script import write_json
from lrpet import models
from lrpet.layers.kinds import layer_of
from lrpet.layers.matrix import Unfolding
from lrpet.planning.spectra import kept_energy
from lrpet.train.provenance import provenance

SWEEPS = 3


def measure(folder: Path, model: str, budgets: Sequence[float]) -> list[dict[str, Any]]:
    """Return a row for each layer of one network, budget and division."""
    network = lrpet.load(folder, models.create(model))
    rows = []
    for name, module in network.named_modules():
        if (
            isinstance(module, nn.Conv2d)
            and min(module.kernel_size) > 1
            and max(module.stride) == 1
            and module.groups == 1
        ):
            for budget in budgets:
                said = {"network": folder.parent.name, "layer": name, "budget": budget}
                rows += [{**said, **found} for found in divided(module, budget)]
    return rows


def divided(module: nn.Conv2d, budget: float) -> Iterator[dict[str, Any]]:
    """Yield what each division keeps of a kernel, shape (n, c, k, k), at a fraction of its multiply-adds."""
    filters, channels, height, width = module.weight.shape
    allowed = budget * module.weight.numel()
    costs: dict[Unfolding, int] = {
        "channel": channels * height * width + filters,
        "spatial": channels * height + filters * width,
    }
    for unfolding, cost in costs.items():
        layer = layer_of(module, "", unfolding=unfolding)
        assert layer is not None
        rank = int(allowed // cost)
        yield {"division": unfolding, "ranks": [rank], "kept": kept_energy(layer)[rank - 1] if rank else 0.0}
    pairs = ((out, _other_rank(module.weight, out, allowed)) for out in range(1, filters + 1))
    found = {pair: tucker_energy(module.weight, *pair) for pair in pairs if pair[1] > 0}
    best = max(found, key=found.__getitem__)
    yield {"division": "tucker", "ranks": [*best], "kept": found[best]}


def _other_rank(weight: Tensor, out: int, allowed: float) -> int:
    """Return the largest number of inner input channels that a budget of multiply-adds a position leaves."""
    filters, channels, height, width = weight.shape
    return min(channels, int((allowed - filters * out) // (channels + height * width * out)))


@torch.no_grad()
def tucker_energy(weight: Tensor, out: int, into: int) -> float:
    """Return the fraction of the energy of a kernel (n, c, k, k) that a core of (out, into, k, k) keeps."""
    kernel = weight.double()
    left = _leading(kernel, out)
    for _ in range(SWEEPS):
        right = _leading(torch.einsum("ncij,no->coij", kernel, left), into)
        left = _leading(torch.einsum("ncij,cm->nmij", kernel, right), out)
    core = torch.einsum("ncij,no,cm->omij", kernel, left, right)
    return float(core.square().sum() / kernel.square().sum())


def _leading(tensor: Tensor, rank: int) -> Tensor:
    """Return the leading left singular vectors of a tensor's first unfolding."""
    vectors: Tensor = torch.linalg.eigh(tensor.flatten(1) @ tensor.flatten(1).mT)[1]
    return vectors[:, -rank:]


def main(argv: Sequence[str] | None = None) -> None:
    given = parsed(__doc__, argv, macs=(0.42, 0.21))
    rows = [row for folder in given.networks for row in measure(folder, given.model, given.macs)]
    write_json(given.out, {**provenance(), "seed": [*map(seed_of, given.networks)], "sweeps": SWEEPS, "rows": rows})


if __name__ == "__main__":
    main()
