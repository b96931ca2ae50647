"""What several test files need: networks with realistic statistics, and counts made by other means than lrpet's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from lrpet.layers.factors import FactorPair
from lrpet.planning.layer_plan import LayerPlan
from lrpet.planning.plan import Plan


@torch.no_grad()
def realistic_(model: nn.Module, images: Tensor, *, seed: int = 0) -> nn.Module:
    """Give batch norms varied scales (some negative, some small), offsets and the statistics of `images`; eval mode."""
    random = torch.Generator().manual_seed(seed)
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        sign = torch.where(torch.rand(norm.num_features, generator=random) < 0.1, -1.0, 1.0)
        norm.weight.copy_(sign * torch.exp(0.4 * torch.randn(norm.num_features, generator=random) - 0.2))
        norm.bias.copy_(0.2 * torch.randn(norm.num_features, generator=random))
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
    model.train()
    model(images)
    for norm in norms:
        norm.momentum = 0.1
    return model.eval()


def matrix_macs(model: nn.Module, *inputs: Any) -> int:
    """Multiply-adds of convolutions and linears in one forward pass, by torch's own counter."""
    aten = torch.ops.aten
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(*inputs)
    counts = counter.get_flop_counts()["Global"]
    return sum(int(counts.get(op, 0)) for op in (aten.convolution, aten.mm, aten.addmm)) // 2


def matrix_params(model: nn.Module) -> int:
    """Parameters of convolutions and linears."""
    matrices = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear)
    return sum(p.numel() for module in model.modules() if isinstance(module, matrices) for p in module.parameters())


def images(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def small_network(seed: int = 0) -> nn.Sequential:
    """For images of shape (3, 6, 6) in 4 classes: a convolution with and one without a batch norm, and a classifier."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Conv2d(12, 12, 3),
        nn.Flatten(),
        nn.Linear(192, 4),
    )


def weight(model: nn.Module, name: str) -> Tensor:
    """The weight of a layer, as a matrix."""
    parameter = model.get_submodule(name).weight
    assert isinstance(parameter, Tensor)
    return parameter.detach().flatten(1)


def factors(compact: nn.Module, name: str) -> list[Any]:
    """The two that a layer became."""
    pair = compact.get_submodule(name)
    assert isinstance(pair, FactorPair)
    return list(pair)


class Small(nn.Module):
    """Three convolutions, the last of which is too thin to gain from factors, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 12, 3, padding=1, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(12)
        self.second = nn.Conv2d(12, 16, 3, padding=1, stride=2)
        self.third = nn.Conv2d(16, 1, 1)
        self.hidden = nn.Linear(4 * 4, 20)
        self.classifier = nn.Linear(20, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.third(self.second(self.norm(self.first(x)).relu()).relu())
        return self.classifier(self.hidden(x.flatten(1)).relu())  # type: ignore[no-any-return]


def layer_of(plan: Plan, name: str) -> LayerPlan:
    """What a plan has for a layer."""
    (layer,) = [layer for layer in plan.layers if layer.name == name]
    return layer


def write_folder(
    path: Path, parts: tuple[str, ...] = ("train", "val"), classes: tuple[str, ...] = ("cat", "dog")
) -> None:
    """A folder of images for each part and class, in the layout of ImageNet."""
    random = np.random.default_rng(2)
    for part in parts:
        for label in classes:
            (path / part / label).mkdir(parents=True)
            for i in range(6):
                array = random.integers(0, 256, (20 + i, 30, 3), dtype=np.uint8)
                Image.fromarray(array).save(path / part / label / f"{i}.png")


def write_shards(folder: Path, path: Path, *, each: int = 7) -> None:
    """Write the images of a folder in the layout of ImageNet as WebDataset shards, by the library of that name."""
    import webdataset

    path.mkdir(parents=True)
    for part in ("train", "val"):
        with webdataset.ShardWriter(str(path / f"{part}-%06d.tar"), maxcount=each, verbose=0) as writer:
            for label, name in enumerate(sorted(each.name for each in (folder / part).iterdir())):
                for image in sorted((folder / part / name).iterdir()):
                    writer.write({"__key__": f"{name}-{image.stem}", "png": image.read_bytes(), "cls": label})
