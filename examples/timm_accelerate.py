"""timm's network, optimizer and schedule in an accelerate loop: `attach`, and the loop stays as it is.

python examples/timm_accelerate.py, or accelerate launch --num_processes 2 examples/timm_accelerate.py
"""

from __future__ import annotations

import timm
import torch
from accelerate import Accelerator
from sklearn.datasets import load_digits
from sklearn.utils import shuffle
from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]
from timm.scheduler import CosineLRScheduler  # type: ignore[attr-defined]
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import lrpet
from lrpet.integrations.optimizer import attach

NAME = "test_resnet"


def main(folder: str = "runs/timm", *, epochs: int = 5) -> float:
    """Train, save the compact network, and return the accuracy of what is read back."""
    torch.manual_seed(0)
    values, classes = shuffle(*load_digits(return_X_y=True), random_state=0)
    images, labels = torch.tensor(values).float().view(-1, 1, 8, 8) / 16, torch.tensor(classes)
    images = F.interpolate(images, size=32)
    loader = DataLoader(TensorDataset(images[:-360], labels[:-360]), batch_size=64, shuffle=True)

    model = timm.create_model(NAME, in_chans=1, num_classes=10)
    plan = lrpet.plan(model, images[:1], macs=0.5)  # before `prepare`, which may wrap or shard the model
    projector = lrpet.Projector(model, plan)
    accelerator = Accelerator(cpu=True)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=3e-3, weight_decay=0.05)
    schedule = CosineLRScheduler(optimizer, t_initial=epochs)
    prepared, optimizer, batches = accelerator.prepare(model, optimizer, loader)
    projector.total_steps = epochs * len(batches)
    attach(projector, optimizer)  # the one line; checkpoints of the optimizer hold the projector's state
    for epoch in range(epochs):
        for inputs, targets in batches:
            accelerator.backward(F.cross_entropy(prepared(inputs), targets))
            optimizer.step()
            optimizer.zero_grad()
        schedule.step(epoch + 1)
    compact = projector.finish()  # in every process
    if accelerator.is_main_process:
        lrpet.save(compact, folder, overwrite=True)
    accelerator.wait_for_everyone()
    compact = lrpet.load(folder, timm.create_model(NAME, in_chans=1, num_classes=10)).eval()
    with torch.no_grad():
        accuracy = float((compact(images[-360:]).argmax(1) == labels[-360:]).float().mean())
    accelerator.print(f"{accuracy:.1%} of 360 test images")
    return accuracy


if __name__ == "__main__":
    main()
