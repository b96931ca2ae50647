"""Each framework's own loop, in a short training: projections fall due, checkpoints resume, the end is low-rank."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import timm
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from timm import optim as timm_optim
from timm import scheduler as timm_scheduler
from timm import utils as timm_utils
from torch import Tensor, nn

import lrpet
from helpers import images
from helpers import small_network as network
from lrpet.integrations.lightning import ProjectorCallback as LightningCallback
from lrpet.integrations.optimizer import attach
from short_loops import assert_low_rank, data, planned

# ── accelerate ───────────────────────────────────────────────────────────────────────────────────────────────────────


def accelerated(folder: Path, steps: range, *, resume: bool = False) -> tuple[nn.Module, lrpet.Projector]:
    model = network()
    projector = planned(model, every=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    prepared, optimizer, batches = accelerator.prepare(model, optimizer, data())
    attach(projector, optimizer)
    if resume:
        accelerator.load_state(str(folder))
    for _ in steps:
        for x, y in batches:
            with accelerator.accumulate(prepared):
                accelerator.backward(nn.functional.cross_entropy(prepared(x), y))
                optimizer.step()
                optimizer.zero_grad()
    accelerator.save_state(str(folder))
    AcceleratorState._reset_state(reset_partial_state=True)
    return accelerator.unwrap_model(prepared), projector


def test_accelerate_with_accumulation_and_checkpoints(tmp_path: Path) -> None:
    whole, projector = accelerated(tmp_path / "whole", range(2))
    assert projector.steps == 6
    assert_low_rank(whole, projector.plan)
    accelerated(tmp_path / "part", range(1))
    resumed, projector = accelerated(tmp_path / "part", range(1, 2), resume=True)
    assert projector.steps == 6
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


# ── timm ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_loop_in_the_style_of_timm() -> None:
    torch.manual_seed(0)
    model = timm.create_model("resnet10t", num_classes=4, in_chans=3)
    x = images(8, 3, 32, 32)
    plan = lrpet.plan(model, x[:1], macs=0.5)
    projector = lrpet.Projector(model, plan, start=0, every=2)
    optimizer = timm_optim.create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05)  # type: ignore[attr-defined]
    scheduler, _ = timm_scheduler.create_scheduler_v2(optimizer, sched="cosine", num_epochs=2)  # type: ignore[attr-defined]
    average = timm_utils.ModelEmaV3(model, decay=0.9)  # type: ignore[attr-defined]
    attach(projector, optimizer)
    for epoch in range(2):
        for step in range(2):
            nn.functional.cross_entropy(model(x), torch.arange(8) % 4).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
            average.update(model, step=2 * epoch + step)
        scheduler.step(epoch + 1)
    assert projector.steps == 4
    assert_low_rank(model, plan)
    projected = projector.projected_copy(average.module).eval()
    assert_low_rank(projected, plan)
    compact = lrpet.factorize(projected, plan)
    with torch.no_grad():
        torch.testing.assert_close(compact(x), projected(x), rtol=1e-3, atol=1e-4)


# ── Lightning ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Module(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.network = network()

    def training_step(self, batch: Any, _: int) -> Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self.network(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


def fit(
    folder: Path, *, epochs: int, resume: str | None = None, start: int | float = 0, **options: Any
) -> tuple[Module, lrpet.Projector, L.Trainer]:
    module = Module()
    projector = planned(module.network, every=2, start=start)
    trainer = L.Trainer(
        default_root_dir=folder,
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[LightningCallback(projector)],
        **options,
    )
    trainer.fit(module, data(), ckpt_path=resume)
    return module, projector, trainer


@pytest.mark.filterwarnings("ignore")
def test_lightning_with_accumulation_and_checkpoints(tmp_path: Path) -> None:
    module, projector, trainer = fit(tmp_path, epochs=2, accumulate_grad_batches=2)
    assert projector.steps == 6 == trainer.global_step
    assert_low_rank(module.network, projector.plan)
    assert 0 < trainer.callback_metrics["lrpet/pruned"] < 1

    _, half, first = fit(tmp_path, epochs=1, accumulate_grad_batches=2)
    first.save_checkpoint(tmp_path / "half.ckpt", weights_only=False)
    assert half.steps == 3
    resumed, projector, _ = fit(tmp_path, epochs=2, accumulate_grad_batches=2, resume=str(tmp_path / "half.ckpt"))
    assert projector.steps == 6
    assert_low_rank(resumed.network, projector.plan)
    assert not any(hook for hook in trainer.optimizers[0]._optimizer_step_post_hooks.values())


@pytest.mark.filterwarnings("ignore")
def test_the_trainer_says_how_long_the_training_is(tmp_path: Path) -> None:
    _, projector, _ = fit(tmp_path / "lightning", epochs=1, start=0.5)
    assert (projector.total_steps, projector.start, projector.steps) == (6, 3, 6)
    _, first, trainer = fit(tmp_path / "lightning", epochs=1, start=0.5)
    trainer.save_checkpoint(tmp_path / "half.ckpt", weights_only=False)
    _, resumed, _ = fit(tmp_path / "lightning", epochs=2, start=0.5, resume=str(tmp_path / "half.ckpt"))
    assert (first.steps, resumed.total_steps, resumed.steps) == (6, 12, 12)
