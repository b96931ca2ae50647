"""DeepLab v3 with a low-rank ResNet-50 backbone, on data in the format of Pascal VOC 2012.

    python examples/segmentation.py DATA --output compact/ [--keep 0.5] [--epochs 50] [--pretrained]

DATA holds VOCdevkit/VOC2012. As in the method's paper, only the backbone's convolutions are projected. Printed at the end:
the mean intersection over union of the compact network, as read back from disk.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision import datasets
from torchvision.models.segmentation import deeplabv3_resnet50
from torchvision.transforms import v2

import lrpet

CLASSES, BORDER = 21, 255  # VOC's 20, and background; pixels that count for nothing


def data(root: Path, part: str, *, side: int, train: bool) -> DataLoader[Any]:
    crop: list[Any] = [v2.RandomResizedCrop(side, scale=(0.5, 1.0), antialias=True), v2.RandomHorizontalFlip()]
    steps = crop if train else [v2.Resize((side, side), antialias=True)]
    finish = [v2.ToDtype(torch.float32, scale=True), v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
    voc = datasets.VOCSegmentation(
        root, year="2012", image_set=part, transforms=v2.Compose([v2.ToImage(), *steps, *finish])
    )
    wrapped = datasets.wrap_dataset_for_transforms_v2(voc)
    return DataLoader(wrapped, batch_size=4, shuffle=train, drop_last=train)


def network(*, pretrained: bool) -> nn.Module:
    weights = "DEFAULT" if pretrained else None
    model: nn.Module = deeplabv3_resnet50(weights=None, weights_backbone=weights, num_classes=CLASSES)
    return model


@torch.no_grad()
def intersection_over_union(model: nn.Module, batches: DataLoader[Any], device: torch.device) -> float:
    """Mean over the classes that occur."""
    confusion = torch.zeros(CLASSES, CLASSES, dtype=torch.long)
    model.eval()
    for images, masks in batches:
        found = model(images.to(device))["out"].argmax(1).cpu()
        masks = masks.squeeze(1).long()
        counted = masks != BORDER
        pairs = CLASSES * masks[counted] + found[counted]
        confusion += torch.bincount(pairs, minlength=CLASSES**2).view(CLASSES, CLASSES)
    union = confusion.sum(0) + confusion.sum(1) - confusion.diag()
    return float((confusion.diag()[union > 0] / union[union > 0]).mean())


def main(arguments: Sequence[str] | None = None) -> float:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--output", type=Path, default=Path("compact-segmentation"))
    parser.add_argument("--keep", type=float, default=0.5)
    parser.add_argument("--every", type=int, default=5, help="steps between projections, from half of the training on")
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--side", type=int, default=473, help="side of the images in the network, in pixels")
    parser.add_argument("--pretrained", action="store_true", help="start the backbone from ImageNet weights")
    options = parser.parse_args(arguments)

    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    train = data(options.data, "train", side=options.side, train=True)
    validation = data(options.data, "val", side=options.side, train=False)
    model = network(pretrained=options.pretrained).to(device)
    example = torch.rand(1, 3, options.side, options.side, device=device)
    plan = lrpet.plan(model, example, keep=options.keep, include="backbone.*")
    print(plan.summary())
    steps = options.epochs * len(train)
    projector = lrpet.Projector(model, plan, total_steps=steps, every=options.every)
    optimizer = torch.optim.SGD(model.parameters(), lr=options.lr, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, steps, power=0.9)
    for epoch in range(options.epochs):
        model.train()
        total = torch.zeros((), device=device)
        for images, masks in train:
            out = model(images.to(device))["out"]
            loss = F.cross_entropy(out, masks.squeeze(1).to(device).long(), ignore_index=BORDER)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            projector.step()
            schedule.step()
            total += loss.detach()
        print(f"epoch {epoch + 1}: loss {total.item() / max(1, len(train)):.3f}")
    lrpet.save(projector.finish().cpu(), options.output)

    compact = lrpet.load(options.output, network(pretrained=options.pretrained), device=device)
    found = intersection_over_union(compact, validation, device)
    print(f"mean IoU of the compact network: {found:.4f}")
    return found


if __name__ == "__main__":
    main()
