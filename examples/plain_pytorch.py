"""A plain PyTorch loop: one line more in the loop, and plain layers at the end.

python examples/plain_pytorch.py

"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split

import lrpet

EXAMPLE = torch.zeros(1, 1, 8, 8)


def make_model() -> nn.Sequential:
    """Make a small network for images of 8×8 pixels in ten classes."""
    return nn.Sequential(
        *(nn.Conv2d(1, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU()),
        *(nn.Conv2d(64, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(64, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)),
    )


def main(folder: str = "runs/plain", *, epochs: int = 8) -> float:
    """Train, save the compact network, and return the accuracy of what is read back."""
    torch.manual_seed(0)
    values, classes = load_digits(return_X_y=True)
    digits = TensorDataset(torch.tensor(values).float().view(-1, 1, 8, 8) / 16, torch.tensor(classes))
    training, test = random_split(digits, [0.8, 0.2])
    batches = DataLoader(training, batch_size=64, shuffle=True)

    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    plan = lrpet.plan(model, EXAMPLE, macs=0.3)  # 30 % of the multiply-adds
    projector = lrpet.Projector(model, plan, total_steps=epochs * len(batches))
    for _ in range(epochs):
        for images, labels in batches:
            F.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
            projector.step()  # the one line
    lrpet.save(projector.finish(), folder, overwrite=True)

    compact = lrpet.load(folder, make_model()).eval()
    images, labels = next(iter(DataLoader(test, batch_size=len(test))))
    accuracy = float((compact(images).argmax(1) == labels).float().mean())
    print(f"{accuracy:.1%} of {len(test)} test images at {plan.macs / plan.macs_dense:.0%} of the multiply-adds")
    return accuracy


if __name__ == "__main__":
    main()
