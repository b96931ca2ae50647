"""The networks of `benchmarks.coverage`, small enough to be made and run on a CPU."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import timm
import torch
import torchvision
from torch import nn

from benchmarks.coverage_transformers import TRANSFORMERS, made

LARGEST = 60_000_000


@dataclass(frozen=True)
class Case:
    """A network, and the inputs it takes."""

    library: str
    family: str
    name: str
    make: Callable[[], tuple[nn.Module, Any]]
    watch: tuple[str, ...] = ()
    """Submodules whose outputs are compared where the network's own depend on them in jumps, as detections do."""


def cases(libraries: list[str] | None, only: str, *, every: bool) -> Iterator[Case]:
    """Yield the networks whose names match the pattern `only`."""
    sources = {"timm": _timm, "torchvision": _torchvision, "transformers": _transformers}
    for library in libraries or sources:
        yield from sources[library](only, every)


# ── timm ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _timm(only: str, every: bool) -> Iterator[Case]:
    for family in timm.list_modules():
        names = [name for name in timm.list_models(module=family) if fnmatch.fnmatch(name, only)]
        sizes = {name: _timm_size(name) for name in names} if len(names) > 1 else dict.fromkeys(names, 0)
        chosen = sorted(names, key=sizes.__getitem__)
        for name in [name for name in chosen if sizes[name] <= LARGEST] if every else chosen[:1]:
            yield Case("timm", family, name, partial(_timm_model, name))


def _timm_size(name: str) -> float:
    """Count parameters without making them; a model that cannot be made that way counts as infinite."""
    try:
        with torch.device("meta"):
            return sum(p.numel() for p in timm.create_model(name).parameters())
    except Exception:
        return float("inf")


def _timm_model(name: str) -> tuple[nn.Module, Any]:
    model: Any = timm.create_model(name, num_classes=10)
    channels, height, width = model.default_cfg.get("input_size", (3, 224, 224))
    return model, (torch.randn(1, channels, height, width, generator=torch.Generator().manual_seed(1)),)


# ── torchvision ──────────────────────────────────────────────────────────────────────────────────────────────────────

CLASSIFICATION = {
    "alexnet": "alexnet",
    "convnext": "convnext_tiny",
    "densenet": "densenet121",
    "efficientnet": "efficientnet_b0",
    "efficientnet v2": "efficientnet_v2_s",
    "googlenet": "googlenet",
    "inception": "inception_v3",
    "maxvit": "maxvit_t",
    "mnasnet": "mnasnet1_0",
    "mobilenet v2": "mobilenet_v2",
    "mobilenet v3": "mobilenet_v3_small",
    "regnet x": "regnet_x_400mf",
    "regnet y": "regnet_y_400mf",
    "resnet": "resnet18",
    "resnext": "resnext50_32x4d",
    "shufflenet v2": "shufflenet_v2_x1_0",
    "squeezenet": "squeezenet1_1",
    "swin": "swin_t",
    "swin v2": "swin_v2_t",
    "vgg": "vgg11_bn",
    "vit": "vit_b_32",
    "wide resnet": "wide_resnet50_2",
    "video r3d": "r3d_18",
    "video mc3": "mc3_18",
    "video r(2+1)d": "r2plus1d_18",
    "video s3d": "s3d",
    "video swin": "swin3d_t",
    "video mvit": "mvit_v2_s",
}
DETECTION = {
    "fasterrcnn_resnet50_fpn": ("backbone", "rpn.head"),
    "fasterrcnn_mobilenet_v3_large_320_fpn": ("backbone", "rpn.head"),
    "maskrcnn_resnet50_fpn": ("backbone", "rpn.head"),
    "keypointrcnn_resnet50_fpn": ("backbone", "rpn.head"),
    "retinanet_resnet50_fpn": ("head",),
    "fcos_resnet50_fpn": ("head",),
    "ssd300_vgg16": ("head",),
    "ssdlite320_mobilenet_v3_large": ("head",),
}
SEGMENTATION = ("deeplabv3_resnet50", "deeplabv3_mobilenet_v3_large", "fcn_resnet50", "lraspp_mobilenet_v3_large")


def _torchvision(only: str, every: bool) -> Iterator[Case]:
    def make(name: str, kind: str) -> tuple[nn.Module, Any]:
        backbone: dict[str, Any] = {} if kind == "classification" else {"weights_backbone": None}
        if name in ("googlenet", "inception_v3"):
            backbone = {"init_weights": True}
        model = torchvision.models.get_model(name, weights=None, **backbone)
        side = 299 if name == "inception_v3" else 224
        shape: tuple[int, ...] = (1, 3, side, side)
        if name in ("r3d_18", "mc3_18", "r2plus1d_18", "s3d", "swin3d_t", "mvit_v2_s"):
            shape = (1, 3, 16, 224, 224) if name in ("s3d", "mvit_v2_s") else (1, 3, 8, 112, 112)
        x = torch.rand(shape, generator=torch.Generator().manual_seed(1))
        return model, ([x[0]],) if kind == "detection" else (x,)

    for family, name in CLASSIFICATION.items():
        if fnmatch.fnmatch(name, only):
            yield Case("torchvision", family, name, partial(make, name, "classification"))
    for name, watch in DETECTION.items():
        if fnmatch.fnmatch(name, only):
            yield Case("torchvision", "detection", name, partial(make, name, "detection"), watch)
    for name in SEGMENTATION:
        if fnmatch.fnmatch(name, only):
            yield Case("torchvision", "segmentation", name, partial(make, name, "segmentation"))


# ── transformers ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _transformers(only: str, every: bool) -> Iterator[Case]:
    for family, (kind, settings, taken) in TRANSFORMERS.items():
        if fnmatch.fnmatch(kind, only):
            yield Case("transformers", family, kind, partial(made, kind, settings, taken))
