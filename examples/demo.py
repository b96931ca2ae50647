"""Train a network that ends at 15 % of its multiply-adds, hold it against an SVD, and leave what a user would deploy.

python examples/demo.py FOLDER [--json FILE] [--picture FILE]

"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from demo_data import SIDE, Digits, Part, accuracy
from demo_report import DENSE, LRPET, RETRAINED, SVD, SVD_BN, draw, table, verdict
from rich.console import Console
from torch import nn
from torch.nn import functional as F

import lrpet
from lrpet.latency.bench import bench
from lrpet.train.provenance import provenance

EXAMPLE = torch.zeros(1, 1, SIDE, SIDE)
Curve = list[tuple[int, float]]
"""Steps, and the accuracy on the validation part after each."""


@dataclass(frozen=True)
class Settings:
    """What was chosen by the validation part."""

    macs: float = 0.15
    steps: int = 700
    start: float = 0.5
    """When projections begin, and when the network is cut that is then trained on, as a fraction of the steps."""
    batch_size: int = 32
    lr: float = 0.003
    weight_decay: float = 0.05
    width: int = 48
    seed: int = 0
    timed_batch: int = 64
    seconds: float = 0.5
    """Bounds the measuring of each network on each runtime."""


def make_network(settings: Settings) -> nn.Sequential:
    """Make a plain network of six convolutions, its weights drawn by the seed."""

    def convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
        layer = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU())

    torch.manual_seed(settings.seed)
    w = settings.width
    thin, middle = [convolution(1, w)], [convolution(w, 2 * w, stride=2), convolution(2 * w, 2 * w)]
    wide = [convolution(2 * w, 4 * w, stride=2), convolution(4 * w, 4 * w), convolution(4 * w, 4 * w)]
    return nn.Sequential(*thin, *middle, *wide, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * w, 10))


def fit(
    network: nn.Module, digits: Digits, settings: Settings, *, steps: int, projector: lrpet.Projector | None = None
) -> Curve:
    """Train as anybody does; the projector's line is all that LRPET adds to the loop."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.lr, total_steps=steps, pct_start=0.2)
    curve = []
    network.train()
    for step, (images, labels) in enumerate(batches(digits, settings, steps), start=1):
        loss = F.cross_entropy(network(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if projector is not None:
            projector.step()
        if step % max(1, settings.steps // 20) == 0:
            curve.append((step, accuracy(network, digits.validation)))
    network.eval()
    return curve


def batches(digits: Digits, settings: Settings, steps: int) -> Iterator[Part]:
    return digits.batches(steps, size=settings.batch_size, seed=settings.seed)


def train_dense(digits: Digits, settings: Settings) -> tuple[nn.Module, Curve]:
    network = make_network(settings)
    return network, fit(network, digits, settings, steps=settings.steps)


def train_lrpet(digits: Digits, settings: Settings) -> tuple[nn.Module, Curve]:
    network = make_network(settings)
    plan = lrpet.plan(network, EXAMPLE, macs=settings.macs)
    projector = lrpet.Projector(network, plan, total_steps=settings.steps, start=settings.start)
    curve = fit(network, digits, settings, steps=settings.steps, projector=projector)
    return projector.finish(), curve


def train_cut_train(digits: Digits, settings: Settings) -> tuple[nn.Module, Curve]:
    """Train the dense network for the first half of the steps, cut it, and train the thin layers for the other half."""
    network, half = make_network(settings), round(settings.start * settings.steps)
    before = fit(network, digits, settings, steps=half)
    compact = svd(network, settings)
    cut = (half, accuracy(compact, digits.validation))
    after = fit(compact, digits, replace(settings, seed=settings.seed + 1), steps=settings.steps - half)
    return compact, [*before, cut, *((half + step, value) for step, value in after)]


def svd(network: nn.Module, settings: Settings, data: Iterator[Part] | None = None) -> nn.Module:
    """Cut a trained network by a plain SVD; with data, re-estimate what batch norm remembers."""
    return lrpet.compress(
        network, EXAMPLE, macs=settings.macs, batches=data, energy_transfer=False, rectify=False
    ).eval()


def main(folder: Path, settings: Settings, *, file: Path | None = None, picture: Path | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    file, picture = file or folder / "demo.json", picture or folder / "demo.png"
    console, digits = Console(), Digits.load()
    networks: dict[str, nn.Module] = {}
    arms: dict[str, dict[str, Any]] = {}

    def done(name: str, network: nn.Module, curve: Curve, begin: float) -> None:
        networks[name], seconds = network, time.perf_counter() - begin
        arms[name] = {"seconds": seconds, "validation": accuracy(network, digits.validation), "curve": curve}
        console.print(f"{seconds:5.1f} s  {name}: {arms[name]['validation']:.1%} on validation images", highlight=False)

    begin = time.perf_counter()
    done(DENSE, *train_dense(digits, settings), begin)
    begin = time.perf_counter()
    compact, curve = train_lrpet(digits, settings)
    lrpet.save(compact, folder / "compact", overwrite=True)
    compact = lrpet.load(folder / "compact", make_network(settings))
    done(LRPET, compact, curve, begin)
    begin = time.perf_counter()
    done(SVD, svd(networks[DENSE], settings), [], begin)
    begin = time.perf_counter()
    done(SVD_BN, svd(networks[DENSE], settings, batches(digits, settings, 30)), [], begin)
    begin = time.perf_counter()
    done(RETRAINED, *train_cut_train(digits, settings), begin)

    lrpet.export(compact, folder / "compact.onnx", EXAMPLE, inputs=[digits.validation[0]], overwrite=True)
    images = EXAMPLE.repeat(settings.timed_batch, 1, 1, 1)
    times = bench(networks, images, runtimes=["eager", "onnxruntime"], seconds=settings.seconds)
    for name, network in networks.items():
        arms[name]["accuracy"] = accuracy(network, digits.test)  # the only look at the test part
    results = {**provenance(), "seed": settings.seed, "settings": asdict(settings), "arms": arms}
    results |= {"test_images": len(digits.test[1]), "bench": times.to_dict()}

    file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    draw(results, picture)
    console.print(table(results))
    console.print(verdict(results), style="bold", highlight=False)
    console.print(f"\ncompact network   {folder / 'compact'}   (lrpet.load reads it, as was done for the table)")
    console.print(f"an ONNX file      {folder / 'compact.onnx'}   (checked against the compact network)")
    console.print(f"a picture         {picture}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", type=Path, help="where the results go; FOLDER/demo.json by default")
    parser.add_argument("--picture", type=Path, help="where the picture goes; FOLDER/demo.png by default")
    given = parser.parse_args()
    main(given.folder, Settings(), file=given.json, picture=given.picture)
