"""How long a projection takes, and how exact it is: full SVDs, the Gram matrix, and a warm start.

    python -m benchmarks.projection OUT.json [--sets resnet20 resnet56 ...] [--rounds 7] [--device cpu]

Contenders take turns in one process. `svd` is what the method's authors do: a full SVD of each (folded) matrix, reconstructed
from its leading part, one layer after another. `cold` and `warm` are lrpet.Projector, without and with the last projection's
bases; on a GPU, `replayed` is `warm` as CUDA graphs. `products` is the bound: only the matrix products that no warm projection
can do without. These are one power step (through the Gram matrix or as two products, whichever has fewer operations) and the
two products of the rebuild.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import lrpet
from benchmarks.layer_sets import SETS, state_of, trained
from benchmarks.script import clock, parser_of, write_json
from lrpet.projecting.solvers import leading
from lrpet.train.provenance import provenance

UNDAMPED = 1e-5


@torch.no_grad()
def full_svd(weights: dict[str, Tensor], scales: dict[str, Tensor], ranks: dict[str, int]) -> dict[str, Tensor]:
    """Project as the authors do: U·diag(σ)·Vᵀ of each folded matrix, unfolded with α/(α² + 1e-5)."""
    projected = {}
    for name, weight in weights.items():
        scale, rank = scales.get(name), ranks[name]
        folded = weight.flatten(1) if scale is None else scale[:, None] * weight.flatten(1)
        left, values, right = torch.linalg.svd(folded, full_matrices=False)
        kept = values[:rank] * (values.square().sum() / values[:rank].square().sum()).sqrt()
        new = (left[:, :rank] * kept) @ right[:rank]
        projected[name] = new if scale is None else new * (scale / (scale.square() + UNDAMPED))[:, None]
    return projected


def products(weights: dict[str, Tensor], ranks: dict[str, int]) -> Callable[[], None]:
    """Return a function that does the products of one power step and of the rebuild, for every layer."""
    work = []
    for name, weight in weights.items():
        matrix = weight.flatten(1).contiguous()
        matrix = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT
        basis = torch.randn(matrix.shape[0], ranks[name], device=matrix.device)
        small, large = matrix.shape
        gram = small * large + small * ranks[name] < 2 * large * ranks[name]
        work.append((matrix, basis, gram))

    @torch.no_grad()
    def run() -> None:
        for matrix, basis, gram in work:
            _ = (matrix @ matrix.mT) @ basis if gram else matrix @ (matrix.mT @ basis)
            _ = basis @ (basis.mT @ matrix)

    return run


def timed(work: Callable[[], Any], device: torch.device) -> float:
    """Return the milliseconds that `work` takes."""
    begin = clock(device)
    work()
    return 1e3 * (clock(device) - begin)


def restore(network: nn.Module, plan: lrpet.Plan, weights: dict[str, Tensor]) -> None:
    """Put the weights back that `network` had before it was projected."""
    with torch.no_grad():
        for name, layer in plan.bind(network).items():
            layer.weight.copy_(weights[name])


@torch.no_grad()
def errors(
    network: nn.Module, plan: lrpet.Plan, before: dict[str, Tensor], scales: dict[str, Tensor]
) -> dict[str, float]:
    """Return the worst layer's relative error of folded weights, and of energy, against a float64 reference."""
    worst, energy_error = 0.0, 0.0
    for name, layer in plan.bind(network).items():
        scale = scales.get(name, torch.ones(len(before[name]), device=before[name].device)).double()[:, None]
        weight = before[name].flatten(1).double()
        folded = scale * weight
        if min(weight.shape) <= 1024:
            left, values, right = torch.linalg.svd(folded, full_matrices=False)
            rank = plan.ranks[name]
            exact = (left[:, :rank] * values[:rank]) @ right[:rank]
        else:  # a float64 Gram matrix is as exact here, and hours faster
            exact = leading(folded[None], plan.ranks[name], solver="eigh").project(folded[None])[0]
        exact = exact * (folded.norm() / exact.norm())
        got = scale * layer.weight.flatten(1).double()
        worst = max(worst, ((got - exact).norm() / exact.norm()).item())
        energy_error = max(energy_error, (got.square().sum() / folded.square().sum() - 1).abs().item())
    return {"relative_error": worst, "energy_error": energy_error}


def measure(name: str, *, rounds: int, device: torch.device) -> dict[str, Any]:
    """Let the contenders take turns on one set of layers, and return their times and errors."""
    network, plan, projector = trained(name, device=device)
    before = state_of(network, plan)
    bound = plan.bind(network).items()
    scales = {layer: alpha.flatten() for layer, each in bound if (alpha := each.row_scale()) is not None}
    state = {**projector.state_dict(), "waits": {}}
    cold = lrpet.Projector(network, plan, start=0, every=1, solver="eigh")

    recorded = lrpet.Projector(network, plan, start=0, every=1)
    contenders: dict[str, Callable[[], Any]] = {
        "products": products(before, plan.ranks),
        "warm": projector.project,
        **({"replayed": recorded.project} if device.type == "cuda" else {}),
        "cold": cold.project,
        "svd": lambda: full_svd(before, scales, plan.ranks),
    }
    times: dict[str, list[float]] = {contender: [] for contender in contenders}
    accuracy = {}
    few = max(1, rounds // 3)
    for turn in range(rounds + 1):  # the first turn warms up and is not counted
        for contender, work in contenders.items():
            if contender == "svd" and (turn > few or (turn == 0 and name == "block_7b")):
                continue
            restore(network, plan, before)
            projector.load_state_dict(state)
            recorded.load_state_dict(state)
            elapsed = timed(work, device)
            if turn:
                times[contender].append(elapsed)
            if turn == 0 and contender in ("warm", "replayed", "cold"):
                accuracy[contender] = errors(network, plan, before, scales)
    median = {contender: statistics.median(values) for contender, values in times.items()}
    restore(network, plan, before)
    projector.load_state_dict(state)
    pruned = projector.project().pruned
    return {
        "layers": len(plan.ranks),
        "weights": sum(weight.numel() for weight in before.values()),
        "keep": SETS[name].keep,
        "milliseconds": median,
        "rounds": {contender: len(values) for contender, values in times.items()},
        "speedup_over_svd": {
            each: median["svd"] / median[each] for each in ("cold", "warm", "replayed") if each in median
        },
        "warm_over_products": median["warm"] / median["products"],
        "accuracy": accuracy,
        "pruned_energy": pruned,
        "warm_solved_again": projector.solved_again,
        "basis_bytes": projector.basis_bytes,
        "weight_bytes": sum(weight.nbytes for weight in before.values()),
    }


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    device = torch.device(options.device)
    results: dict[str, Any] = {**provenance(), "seed": 0, "sets": {}}
    for name in options.sets:
        results["sets"][name] = measure(name, rounds=options.rounds, device=device)
        row = results["sets"][name]
        print(
            name,
            json.dumps(
                {key: row[key] for key in ("milliseconds", "speedup_over_svd", "warm_over_products", "accuracy")}
            ),
        )
        write_json(options.out, results)


if __name__ == "__main__":
    main()
