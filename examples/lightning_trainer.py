"""Lightning: a callback, which takes the length of the training from the trainer.

python examples/lightning_trainer.py

"""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from sklearn.datasets import load_digits
from sklearn.utils import shuffle
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import lrpet
from lrpet.integrations.lightning import ProjectorCallback


class Reader(L.LightningModule):
    """Reads digits of 8×8 pixels, given as 64 numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))

    def training_step(self, batch: Any, _: int) -> Tensor:
        images, labels = batch
        return F.cross_entropy(self.network(images), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


def main(folder: str = "runs/lightning", *, epochs: int = 10) -> float:
    """Train, save the compact network, and return its accuracy on 360 other digits."""
    L.seed_everything(0, verbose=False)
    values, classes = shuffle(*load_digits(return_X_y=True), random_state=0)
    images, labels = torch.tensor(values).float() / 16, torch.tensor(classes)
    batches = DataLoader(TensorDataset(images[:-360], labels[:-360]), batch_size=64, shuffle=True)
    reader = Reader()
    projector = lrpet.Projector(reader.network, lrpet.plan(reader.network, images[:1], macs=0.3))
    callbacks: list[L.Callback] = [ProjectorCallback(projector)]
    trainer = L.Trainer(default_root_dir=folder, max_epochs=epochs, accelerator="cpu", callbacks=callbacks)
    trainer.fit(reader, batches)
    compact = projector.finish().eval()
    lrpet.save(compact, f"{folder}/compact", overwrite=True)
    accuracy = float((compact(images[-360:]).argmax(1) == labels[-360:]).float().mean())
    print(f"{accuracy:.1%} of 360 test images")
    return accuracy


if __name__ == "__main__":
    main()
