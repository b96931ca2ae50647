"""What each of several processes does in the loop of a framework, on its own part of the data."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lrpet
from helpers import images, small_network
from lrpet.integrations.optimizer import attach

EXAMPLE = images(1, 3, 6, 6)


def planned(model: nn.Module) -> lrpet.Projector:
    """Return a projector that divides its budget again half-way."""
    return lrpet.Projector(model, lrpet.plan(model, EXAMPLE, params=0.6, multiple_of=1), every=2)


def data() -> TensorDataset:
    """Return 64 images with classes."""
    return TensorDataset(images(64, 3, 6, 6, seed=5), torch.arange(64) % 4)


def found(model: nn.Module, projector: lrpet.Projector) -> dict[str, Any]:
    """Return what is compared between processes."""
    weights = {name: parameter.detach().cpu().clone() for name, parameter in model.named_parameters()}
    return {"weights": weights, "steps": projector.steps, "ranks": projector.plan.ranks}


def accelerate() -> dict[str, Any]:
    """Train with accelerate."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model = small_network()
    projector = planned(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    prepared, optimizer, batches = accelerator.prepare(model, optimizer, DataLoader(data(), batch_size=8))
    projector.total_steps = 2 * len(batches)
    attach(projector, optimizer)
    for _ in range(2):
        for x, y in batches:
            accelerator.backward(nn.functional.cross_entropy(prepared(x), y))
            optimizer.step()
            optimizer.zero_grad()
    return found(accelerator.unwrap_model(prepared), projector)


def lightning(folder: Path) -> dict[str, Any]:
    """Train with Lightning's ddp strategy."""
    import lightning as L

    from lrpet.integrations.lightning import ProjectorCallback

    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = small_network()

        def training_step(self, batch: Any, _: int) -> Tensor:
            x, y = batch
            return nn.functional.cross_entropy(self.network(x), y)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)

    module = Module()
    projector = planned(module.network)
    trainer = L.Trainer(
        default_root_dir=folder,
        max_epochs=2,
        accelerator="cpu",
        strategy="ddp",
        devices=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[ProjectorCallback(projector)],
    )
    trainer.fit(module, DataLoader(data(), batch_size=8))
    return found(module.network, projector)


def huggingface(folder: Path) -> dict[str, Any]:
    """Train with the Hugging Face Trainer, and keep a checkpoint."""
    import transformers

    from lrpet.integrations.huggingface import LrpetCallback

    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=50, n_embd=32, n_layer=1, n_head=2, n_positions=16)
    model = transformers.GPT2LMHeadModel(config)
    tokens = torch.randint(0, 50, (32, 8), generator=torch.Generator().manual_seed(0))
    rows = [{"input_ids": row, "labels": row} for row in tokens]
    callback = LrpetCallback(macs=0.6, multiple_of=1, every=2)  # planned in each process, and agreed on
    arguments = transformers.TrainingArguments(
        str(folder),
        per_device_train_batch_size=4,
        num_train_epochs=2,
        save_steps=4,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = transformers.Trainer(model, arguments, train_dataset=rows, callbacks=[callback])
    trainer.train()
    assert (folder / "checkpoint-4" / "lrpet_projector.json").is_file()
    return found(model, callback.projector)


def trained(options: str, kill: int) -> dict[str, Any]:
    """Train as a config in JSON says, or go on with its run; die at step `kill`, if that is not 0."""
    from lrpet.train.config import make_config
    from lrpet.train.run import train
    from runs import killed_at

    config = make_config(json.loads(options))
    resume = config.folder.exists()
    if kill:
        with killed_at(kill):
            train(config, resume=resume)
        return {}
    return train(config, resume=resume)


def stopped(options: str, step: int) -> str:
    """Train as a config in JSON says; process 1 is told to stop after a step, if that is not 0. Return what was raised."""
    import signal

    from lrpet.train.config import make_config
    from lrpet.train.preemption import PreemptedError
    from lrpet.train.run import train
    from runs import told_at

    config = make_config(json.loads(options))
    with told_at(step if os.environ["RANK"] == "1" else 0, signal.SIGTERM):
        try:
            train(config, resume=config.folder.exists())
        except PreemptedError as error:
            return str(error)
    return ""
