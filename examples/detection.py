"""Faster R-CNN with a low-rank ResNet-50 backbone, on data in the format of Pascal VOC 2007.

    python examples/detection.py DATA --output compact/ [--keep 0.5] [--epochs 26] [--pretrained]

DATA holds VOCdevkit/VOC2007. As in the method's paper, only the backbone's convolutions are projected. Printed at the end:
the mean average precision (IoU 0.5) of the compact network, as read back from disk.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics.detection import MeanAveragePrecision
from torchvision import datasets
from torchvision.models.detection import fasterrcnn_resnet50_fpn
from torchvision.transforms import v2

import lrpet

CLASSES = 21  # VOC's 20, and background


def data(root: Path, part: str, *, train: bool) -> DataLoader[Any]:
    steps: list[nn.Module] = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    flip = [v2.RandomHorizontalFlip(), v2.SanitizeBoundingBoxes()] if train else []
    voc = datasets.VOCDetection(root, year="2007", image_set=part, transforms=v2.Compose([*steps, *flip]))
    wrapped = datasets.wrap_dataset_for_transforms_v2(voc, target_keys=("boxes", "labels"))
    return DataLoader(wrapped, batch_size=2, shuffle=train, collate_fn=lambda batch: tuple(zip(*batch, strict=True)))


def backbone(module: nn.Module, name: str) -> bool:
    """Every convolution of the backbone that is trained; its first stages are frozen when they come pretrained."""
    return isinstance(module, nn.Conv2d) and name.startswith("backbone.body.") and module.weight.requires_grad


def network(*, pretrained: bool, side: int) -> nn.Module:
    weights = "DEFAULT" if pretrained else None
    sizes = {"min_size": side, "max_size": 2 * side}
    model: nn.Module = fasterrcnn_resnet50_fpn(weights_backbone=weights, num_classes=CLASSES, **sizes)
    return model


@torch.no_grad()
def precision(model: nn.Module, batches: DataLoader[Any], device: torch.device) -> float:
    """Mean average precision at an intersection over union of 0.5."""
    metric = MeanAveragePrecision(iou_thresholds=[0.5])
    model.eval()
    for images, targets in batches:
        found = model([image.to(device) for image in images])
        metric.update([{name: value.cpu() for name, value in each.items()} for each in found], targets)
    return float(metric.compute()["map_50"])


def main(arguments: Sequence[str] | None = None) -> float:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--output", type=Path, default=Path("compact-detection"))
    parser.add_argument("--keep", type=float, default=0.5)
    parser.add_argument("--every", type=int, default=5, help="steps between projections, from half of the training on")
    parser.add_argument("--epochs", type=int, default=26)
    parser.add_argument("--lr", type=float, default=0.005)
    parser.add_argument("--side", type=int, default=600, help="shorter side of the images in the network, in pixels")
    parser.add_argument("--pretrained", action="store_true", help="start the backbone from ImageNet weights")
    options = parser.parse_args(arguments)

    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    train, test = data(options.data, "trainval", train=True), data(options.data, "test", train=False)
    model = network(pretrained=options.pretrained, side=options.side).to(device)
    example = [torch.rand(3, options.side, options.side, device=device)]
    plan = lrpet.plan(model, (example,), keep=options.keep, include=backbone)
    print(plan.summary())
    steps = options.epochs * len(train)
    projector = lrpet.Projector(model, plan, total_steps=steps, every=options.every)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=options.lr, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for epoch in range(options.epochs):
        model.train()
        total = torch.zeros((), device=device)
        for images, targets in train:
            moved = [{name: each[name].to(device) for name in ("boxes", "labels")} for each in targets]
            losses: dict[str, Tensor] = model([image.to(device) for image in images], moved)
            loss = torch.stack(list(losses.values())).sum()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            projector.step()
            schedule.step()
            total += loss.detach()
        print(f"epoch {epoch + 1}: loss {total.item() / len(train):.3f}")
    lrpet.save(projector.finish().cpu(), options.output)

    compact = lrpet.load(options.output, network(pretrained=options.pretrained, side=options.side), device=device)
    found = precision(compact, test, device)
    print(f"mAP (IoU 0.5) of the compact network: {found:.4f}")
    return found


if __name__ == "__main__":
    main()
