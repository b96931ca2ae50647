"""Whether energy transfer keeps gradients from fading: their norms in every layer, before and after a projection.

    python -m benchmarks.accuracy.gradients OUT.json

Two networks learn 8×8 digits with a projection every 20 steps. One is plain and without batch norm (20 linear layers with
ReLU, 64 wide), the other is ResNet-56. At every projection the gradient of the loss with respect to each layer's output is
taken on one fixed batch. It is taken three times: for the weights as they are, projected with energy transfer, and projected
without. Training then goes on with the projection that the run is for. Norms are over the whole batch, with batch norm in
training mode.
"""

from __future__ import annotations

import copy
import itertools
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import lrpet
from benchmarks.script import parser_of, write_json
from lrpet import models
from lrpet.train.data.dataset import MemoryImages
from lrpet.train.data.sets import load
from lrpet.train.provenance import provenance

KEEP = 0.38
EVERY = 20
PROJECTIONS = 10
SEEDS = 3


def plain(*, depth: int = 20, width: int = 64, inputs: int = 64, classes: int = 10) -> nn.Sequential:
    """Stack linear layers with ReLU between them, initialised to keep the variance (He et al., 2015)."""
    sizes = [inputs, *[width] * (depth - 1), classes]
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        linear = nn.Linear(before, after)
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(nn.Flatten(), *layers[:-1])


def gradient_norms(network: nn.Module, layers: list[str], inputs: Tensor, labels: Tensor) -> list[float]:
    """Return ‖∂loss/∂(output of the layer)‖ for each of `layers`, and leave the network as it was."""
    network = copy.deepcopy(network).train()  # batch norm would update its statistics
    outputs: list[Tensor] = []

    def keep(module: nn.Module, given: Any, output: Tensor) -> None:
        output.retain_grad()
        outputs.append(output)

    for name in layers:
        network.get_submodule(name).register_forward_hook(keep)
    torch.autograd.backward(F.cross_entropy(network(inputs), labels))
    return [output.grad.norm().item() for output in outputs if output.grad is not None]


def projected(network: nn.Module, plan: lrpet.Plan, *, energy_transfer: bool) -> nn.Module:
    """Return a projected copy."""
    network = copy.deepcopy(network)
    lrpet.Projector(network, plan, start=0, every=1, energy_transfer=energy_transfer).project()
    return network


def measure(network: nn.Module, *, lr: float, size: int, seed: int, energy_transfer: bool) -> list[dict[str, Any]]:
    """Train, and return the gradient norms of the network's three forms at each projection."""
    images = load("digits").train
    assert isinstance(images, MemoryImages)
    pixels = F.interpolate(images.pixels.float().sub(78).div(96), size=size)
    generator = torch.Generator().manual_seed(seed)
    plan = lrpet.plan(network, pixels[:1], keep=KEEP, factorize_all=True)
    projector = lrpet.Projector(network, plan, start=0, every=EVERY, energy_transfer=energy_transfer)
    optimizer = torch.optim.SGD(network.parameters(), lr=lr, momentum=0.9)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, total_iters=EVERY * PROJECTIONS)
    layers = list(plan.ranks)
    fixed = pixels[:256], images.labels[:256]
    measured = []
    for step in range(1, EVERY * PROJECTIONS + 1):
        picked = torch.randint(len(pixels), (64,), generator=generator)
        loss = F.cross_entropy(network(pixels[picked]), images.labels[picked])
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % EVERY == 0:
            forms = {
                "before": network,
                "with_transfer": projected(network, plan, energy_transfer=True),
                "without_transfer": projected(network, plan, energy_transfer=False),
            }
            norms = {form: gradient_norms(each, layers, *fixed) for form, each in forms.items()}
            measured.append({"step": step, "loss": loss.item(), "norms": norms})
        report = projector.step()
        if report is not None:
            measured[-1]["pruned"] = report.pruned
    return measured


def first_layer_ratio(measured: list[dict[str, Any]], form: str) -> float:
    """Return what projections leave of the gradient at the first layer: the ratio's geometric mean."""
    ratios = [row["norms"][form][0] / row["norms"]["before"][0] for row in measured]
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    results: dict[str, Any] = {**provenance(), "seed": list(range(SEEDS)), "keep": KEEP, "networks": {}}
    for name, lr, size in (("plain", 0.003, 8), ("resnet56", 0.05, 8)):
        runs = []
        for seed, energy_transfer in ((seed, transfer) for seed in range(SEEDS) for transfer in (True, False)):
            torch.manual_seed(seed)
            network = plain() if name == "plain" else models.create(name, in_channels=1)
            measured = measure(network, lr=lr, size=size, seed=seed, energy_transfer=energy_transfer)
            left = {form: first_layer_ratio(measured, form) for form in ("with_transfer", "without_transfer")}
            runs.append({"seed": seed, "trained_with_transfer": energy_transfer, "left": left, "projections": measured})
            print(name, seed, energy_transfer, left, "final loss", measured[-1]["loss"])
        results["networks"][name] = runs
    write_json(options.out, results, indent=None)


if __name__ == "__main__":
    main()
