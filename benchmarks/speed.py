"""Whether a cut in multiply-adds is a cut in time: whole networks, dense against compact, on what people deploy with.

    python -m benchmarks.speed OUT [--cases NAME …] [--seconds 3] [--device cuda --runtimes eager compile]

Cases of two kinds, a file for each:

- by multiply-adds: plans with default settings, beside plans for an equal budget of any ranks (multiple_of=1), and with kernels
  divided as in the paper (unfolding="channel") where that differs;
- by time: plans made for a runtime and batch size, at the lowest of a few latency budgets that can be met.

Contenders are timed in turns, in one process, by `lrpet.bench`. Weights are random: they do not change the time. On a GPU,
PyTorch runs plans by multiply-adds in bfloat16, NHWC, and with the kernels of a pass replayed as one CUDA graph.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch

import lrpet
from benchmarks.script import parser_of, write_json
from lrpet import models
from lrpet.latency.bench import bench
from lrpet.latency.runtimes import Runtime
from lrpet.train.provenance import provenance

RUNTIMES: tuple[Runtime, ...] = ("onnxruntime", "openvino")
#: Batch sizes on a GPU.
GPU_BATCH_SIZES = (1, 64)
#: Plans that those with default settings are timed beside.
ANY_RANK, CHANNEL = "any rank", "k×k and 1×1"
#: Latency budgets, the lowest first.
LATENCIES = (0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class Case:
    """One network, and what is planned for it."""

    title: str
    model: str
    side: int
    macs: tuple[float, ...] = (0.45, 0.25)
    """Budgets of multiply-adds; empty for plans by time."""
    batch_sizes: tuple[int, ...] = (1, 16)


CASES = {
    "resnet18": Case("ResNet-18", "torchvision:resnet18", 224),
    "resnet50": Case("ResNet-50", "torchvision:resnet50", 224),
    "vgg16": Case("VGG-16, 32²", "vgg16_bn", 32),
    "vit_small": Case("ViT-S/16", "timm:vit_small_patch16_224", 224),
    "convnext_tiny": Case("ConvNeXt-T", "timm:convnext_tiny", 224),
    "mobilenet_v2-timed": Case("MobileNetV2", "torchvision:mobilenet_v2", 224, macs=()),
    "efficientnet_b0-timed": Case("EfficientNet-B0", "torchvision:efficientnet_b0", 224, macs=()),
    "resnet20-timed": Case("ResNet-20, 32²", "resnet20", 32, macs=()),
    "resnet56-timed": Case("ResNet-56, 32²", "resnet56", 32, macs=()),
}


def measure(case: Case, *, seconds: float, runtimes: Sequence[Runtime] = RUNTIMES, gpu: bool = False) -> dict[str, Any]:
    """Return the rows of `lrpet.bench`, and what was planned."""
    torch.manual_seed(0)
    network = models.create(case.model).eval()
    images = torch.randn(1, 3, case.side, case.side)
    if gpu:
        network, images = network.cuda(), images.cuda()  # where the factors are found fast
    if not case.macs:
        return {"title": case.title, **_by_time(case, network, images, seconds)}
    networks = _by_macs(case, network, images)
    options: dict[str, Any] = {"batch_sizes": case.batch_sizes}
    if gpu:
        options = {"device": "cuda", "dtype": torch.bfloat16, "channels_last": True, "cuda_graphs": True}
        options["batch_sizes"] = GPU_BATCH_SIZES
    result = bench(networks, images, runtimes=runtimes, seconds=seconds, told=print, **options)
    return {"title": case.title, **result.to_dict()}


def _by_macs(case: Case, network: torch.nn.Module, images: torch.Tensor) -> dict[str, torch.nn.Module]:
    networks = {"dense": network}
    for macs in case.macs:
        plan = lrpet.plan(network, images, macs=macs)
        networks[f"macs={macs}"] = _compact(network, plan)
        others = {ANY_RANK: lrpet.plan(network, images, macs=macs, multiple_of=1)}
        if any(layer.unfolding == "spatial" for layer in plan.layers):
            others[CHANNEL] = lrpet.plan(network, images, macs=macs, unfolding="channel")
        networks |= {f"macs={macs}, {what}": _compact(network, other) for what, other in others.items()}
    return networks


def _by_time(case: Case, network: torch.nn.Module, images: torch.Tensor, seconds: float) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    machine: dict[str, Any] = {}
    for runtime in RUNTIMES:
        for size in case.batch_sizes:
            print(f"planning for {runtime}, batch size {size}", flush=True)
            plan, refused = _planned(network, images.repeat(size, 1, 1, 1), runtime)
            row: dict[str, Any] = {"runtime": runtime, "batch_size": size, "refused": refused}
            if plan is not None:
                assert plan.timing is not None
                networks = {"dense": network, "compact": _compact(network, plan)}
                raced = bench(networks, images, runtimes=[runtime], batch_sizes=[size], seconds=seconds).to_dict()
                machine = raced["machine"]
                row |= {"budget": plan.budget, "factorised": len(plan.ranks), **plan.timing.to_dict()}
                row |= {"rows": raced["rows"], "verdicts": raced["verdicts"]}
            print(row, flush=True)
            rows.append(row)
    return {"machine": machine, "timed": rows}


def _planned(
    network: torch.nn.Module, images: torch.Tensor, runtime: Runtime
) -> tuple[lrpet.Plan | None, dict[str, str]]:
    """Return the plan of the lowest latency budget that can be met, and why the lower ones cannot."""
    refused: dict[str, str] = {}
    for latency in LATENCIES:
        try:
            return lrpet.plan(network, images, latency=latency, runtime=runtime), refused
        except ValueError as error:
            refused[str(latency)] = str(error)
    return None, refused


def _compact(network: torch.nn.Module, plan: lrpet.Plan) -> torch.nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # weights that are cut off: time does not depend on them
        return lrpet.factorize(network, plan)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("out", type=Path, help="folder in which a file is written for each case")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--seconds", type=float, default=3.0, help="spent on each network, runtime and batch size")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--runtimes", nargs="+", choices=get_args(Runtime), default=list(RUNTIMES))
    options = parser.parse_args()
    gpu = options.device == "cuda"
    if gpu and any(not CASES[name].macs for name in options.cases):
        parser.error("plans by time are for the CPU: name cases by multiply-adds")
    where = torch.cuda.get_device_name().split()[1] if gpu else torch.backends.cpu.get_cpu_capability()
    for name in options.cases:
        measured = measure(CASES[name], seconds=options.seconds, runtimes=options.runtimes, gpu=gpu)
        result = {**provenance(), "seed": 0, "seconds": options.seconds, **measured}
        write_json(options.out / f"speed-{name}-{where.lower()}.json", result)
        print(*measured.get("verdicts", []), sep="\n", flush=True)


if __name__ == "__main__":
    main()
