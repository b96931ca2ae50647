"""timm's network, optimizer and schedule in an accelerate loop: `attach`, and the loop stays as it is.

python examples/timm_accelerate.py, or accelerate launch --num_processes 2 examples/timm_accelerate.py
"""

from __future__ import annotations

import timm
import torch
from accelerate import Accelerator
from sklearn.datasets import load_digits
from sklearn.utils import shuffle
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import lrpet
from lrpet.integrations.optimizer import attach

NAME, SIZES = "test_resnet", {"in_chans": 1, "num_classes": 10}


def main(folder: str = "runs/timm", *, epochs: int = 5) -> float:
    """Train, save the compact network, and return the accuracy of what is read back."""
    torch.manual_seed(0)
    values, classes = shuffle(*load_digits(return_X_y=True), random_state=0)
    images = F.interpolate(torch.tensor(values).float().view(-1, 1, 8, 8) / 16, size=32)
    labels = torch.tensor(classes)
    training, test = TensorDataset(images[:-360], labels[:-360]), images[-360:]

    model = timm.create_model(NAME, **SIZES)
    plan = lrpet.plan(model, test[:1], macs=0.5)  # before `prepare`, which may wrap or shard the model
    projector = lrpet.Projector(model, plan)
    accelerator = Accelerator(cpu=True)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=3e-3, weight_decay=0.05)
    schedule = CosineLRScheduler(optimizer, t_initial=epochs)
    prepared, optimizer, batches = accelerator.prepare(model, optimizer, DataLoader(training, batch_size=64, shuffle=True))
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
    compact = lrpet.load(folder, timm.create_model(NAME, **SIZES)).eval()
    with torch.no_grad():
        accuracy = (compact(test).argmax(1) == labels[-360:]).float().mean().item()
    accelerator.print(f"{accuracy:.1%} of 360 test images")
    return accuracy


if __name__ == "__main__":
    main()
