"""The sets of layers that projection is timed on: networks in training, after seven projections, as the learning rate falls.

"Early" means after three projections, when weights still move far from one projection to the next.

The networks learn 8×8 digits (they come with scikit-learn) enlarged to their input size. The transformer block, as large as one
of a 7B language model, learns to imitate a random linear map. What matters is that the weights carry gradients of a real loss:
the pruned singular values at the next projection are what training has put there since the last one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import lrpet
from lrpet import models
from lrpet.train.data.dataset import MemoryImages
from lrpet.train.data.sets import load


class Block(nn.Module):
    """Attention's query projection and the first linear of the MLP, at the size of a 7B language model."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(4096, 4096, bias=False)
        self.up = nn.Linear(4096, 11008, bias=False)
        self.readout = nn.Linear(11008, 64, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        normalised = F.rms_norm(x, (4096,))
        hidden = F.rms_norm(x + self.query(normalised), (4096,))
        logits: Tensor = self.readout(F.silu(self.up(hidden)))
        return logits


def _vit() -> nn.Module:
    model: nn.Module = timm.create_model("vit_base_patch16_224", img_size=64, num_classes=10)
    return model


@dataclass(frozen=True)
class LayerSet:
    """How a set is made."""

    build: Callable[[], nn.Module]
    keep: float
    image_size: int | None
    steps: int
    """The number of training steps before each projection, and before the measurement."""
    lr: float
    batch: int = 64
    projections: int = 7
    """The number of projections before the measurement. The learning rate falls over seven."""
    include: str | None = None
    """A pattern of the layers that are projected; all if None."""
    exclude: str | None = None
    """A pattern of the layers that are not projected."""


SETS = {
    "resnet20": LayerSet(lambda: models.create("resnet20"), 0.38, 32, 40, 0.1),
    "resnet56": LayerSet(lambda: models.create("resnet56"), 0.43, 32, 20, 0.1),
    "resnet50": LayerSet(lambda: models.create("torchvision:resnet50"), 0.38, 32, 20, 0.05),
    "resnet50_early": LayerSet(lambda: models.create("torchvision:resnet50"), 0.38, 32, 20, 0.05, projections=3),
    "vit_b16": LayerSet(_vit, 0.38, 64, 8, 0.02, 16, include="*mlp*"),
    "block_7b": LayerSet(Block, 0.38, None, 6, 0.05, exclude="readout"),
}
PROJECTIONS = 7


def trained(name: str, *, device: torch.device) -> tuple[nn.Module, lrpet.Plan, lrpet.Projector]:
    """Train and project the set's network in turn, then train on: its projector is ready for a warm projection."""
    chosen = SETS[name]
    torch.manual_seed(0)
    network = chosen.build().to(device)
    batch = _digits(chosen, device) if chosen.image_size else _imitation(device)
    plan = lrpet.plan(
        network, batch()[0][:1], keep=chosen.keep, include=chosen.include, exclude=chosen.exclude, factorize_all=True
    )
    projector = lrpet.Projector(network, plan, start=0, every=10**9, cuda_graphs=False)
    optimizer = torch.optim.SGD(network.parameters(), lr=chosen.lr, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=chosen.steps * (PROJECTIONS + 1))
    network.train()
    for part in range(chosen.projections + 1):
        for _ in range(chosen.steps):
            inputs, labels = batch()
            loss = F.cross_entropy(network(inputs), labels)
            if not math.isfinite(loss.item()):
                raise ValueError(f"training {name} diverged")
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        if part < chosen.projections:
            projector.project()
    return network, plan, projector


def _digits(chosen: LayerSet, device: torch.device) -> Callable[[], tuple[Tensor, Tensor]]:
    images = load("digits").train
    assert isinstance(images, MemoryImages)

    def batch() -> tuple[Tensor, Tensor]:
        picked = torch.randint(len(images), (chosen.batch,))
        small = images.pixels[picked].float().sub(128).div(64).expand(-1, 3, -1, -1)
        return F.interpolate(small, size=chosen.image_size, mode="bilinear").to(device), images.labels[picked].to(
            device
        )

    return batch


def _imitation(device: torch.device) -> Callable[[], tuple[Tensor, Tensor]]:
    teacher = torch.randn(4096, 64)

    def batch() -> tuple[Tensor, Tensor]:
        inputs = torch.randn(256, 4096)
        return inputs.to(device), (inputs @ teacher).argmax(-1).to(device)

    return batch


def state_of(network: nn.Module, plan: lrpet.Plan) -> dict[str, Tensor]:
    """Return copies of the planned weights, by name."""
    return {name: layer.weight.detach().clone() for name, layer in plan.bind(network).items()}
