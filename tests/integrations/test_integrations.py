"""Each framework's own loop, in a short training: projections fall due, checkpoints resume, the end is low-rank."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import timm
import torch
import torch._dynamo
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from helpers import images
from helpers import small_network as network
from timm import optim as timm_optim
from timm import scheduler as timm_scheduler
from timm import utils as timm_utils
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

import lrpet
from lrpet.integrations.lightning import ProjectorCallback as LightningCallback
from lrpet.integrations.optimizer import attach


def data() -> DataLoader[tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (48,), generator=generator)
    return DataLoader(TensorDataset(images(48, 3, 6, 6), labels), batch_size=8)


def rank_of(weight: Tensor) -> int:
    values = torch.linalg.svdvals(weight.detach().flatten(1))
    return int((values > 1e-4 * values[0]).sum())


def assert_low_rank(model: nn.Module, plan: lrpet.Plan) -> None:
    assert plan.ranks
    for name, layer in plan.bind(model).items():
        assert rank_of(layer.weight) <= plan.ranks[name]


def planned(model: nn.Module, **options: Any) -> lrpet.Projector:
    plan = lrpet.plan(model, images(1, 3, 6, 6), keep=0.34)
    return lrpet.Projector(model, plan, **{"start": 0, **options})


# ── plain PyTorch ────────────────────────────────────────────────────────────────────────────────────────────────────


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    accumulate: int = 1,
    scaler: Any = None,
    steps: slice = slice(None),
) -> None:
    for i, (x, y) in enumerate(list(data())[steps]):
        loss = nn.functional.cross_entropy(model(x), y)
        (loss if scaler is None else scaler.scale(16 * loss)).backward()
        if (i + 1) % accumulate == 0:
            optimizer.step() if scaler is None else scaler.step(optimizer)
            if scaler is not None:
                scaler.update()
            optimizer.zero_grad()


def test_attaching_to_an_optimizer_is_the_same_as_the_line_in_the_loop() -> None:
    models = []
    for attached in (False, True):
        model = network()
        projector = planned(model, every=2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        if attached:
            attach(projector, optimizer)
            train(model, optimizer)
        else:
            for x, y in data():
                nn.functional.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                projector.step()
                optimizer.zero_grad()
        assert projector.steps == 6
        models.append(model)
    assert all(torch.equal(a, b) for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True))
    assert_low_rank(models[1], planned(models[1], every=1).plan)


def test_detaching() -> None:
    model = network()
    projector = planned(model, every=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    attach(projector, optimizer).remove()
    train(model, optimizer)
    assert projector.steps == 0


def test_accumulated_batches_count_as_one_step() -> None:
    model = network()
    projector = planned(model, every=3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    attach(projector, optimizer)
    train(model, optimizer, accumulate=2)
    assert projector.steps == 3
    assert_low_rank(model, projector.plan)


def test_steps_that_a_gradient_scaler_skips_do_not_count() -> None:
    model = network()
    projector = planned(model, every=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    attach(projector, optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**126)  # overflows, until halved a few times
    train(model, optimizer, scaler=scaler)
    skipped = round(126 - torch.log2(torch.tensor(scaler.get_scale())).item())
    assert 0 < skipped < 6
    assert projector.steps == 6 - skipped


@pytest.mark.filterwarnings("ignore:.*(is deprecated|should_run_).*")
def test_projecting_compiles_nothing_again() -> None:
    model = network()
    projector = planned(model, every=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    attach(projector, optimizer)
    compiled = torch.compile(model, backend="aot_eager")
    torch._dynamo.reset()
    train(compiled, optimizer)  # type: ignore[arg-type]
    with torch._dynamo.config.patch(error_on_recompile=True):
        train(compiled, optimizer)  # type: ignore[arg-type]
    assert projector.steps == 12


def test_activation_checkpointing() -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = network()

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = checkpoint(self.body, x, use_reentrant=False)
            return result

    model = Checkpointed()
    projector = planned(model, every=2)
    assert set(projector.plan.ranks) == {"body.0", "body.3"}
    assert projector.plan.layers[0].batch_norm == "body.1"
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    attach(projector, optimizer)
    train(model, optimizer)
    assert_low_rank(model, projector.plan)


def test_a_moving_average_is_projected_for_evaluation_and_at_the_end() -> None:
    model = network()
    projector = planned(model, every=2, tail_scale=0.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attach(projector, optimizer)
    mean: Any = torch.optim.swa_utils.get_ema_multi_avg_fn(0.7)  # type: ignore[no-untyped-call]
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=mean, use_buffers=True)
    optimizer.register_step_post_hook(lambda *_: average.update_parameters(model))
    train(model, optimizer)
    weight = average.module.get_submodule("3").weight
    assert isinstance(weight, Tensor)
    assert rank_of(weight) > 4  # a mean of matrices of rank 4
    before = copy.deepcopy(average.module.state_dict())
    steps, last = projector.steps, projector.last
    projected = projector.projected_copy(average.module).eval()
    assert_low_rank(projected, projector.plan)
    assert all(torch.equal(tensor, before[name]) for name, tensor in average.module.state_dict().items())
    assert (projector.steps, projector.last) == (steps, last)
    x = images(4, 3, 6, 6)
    torch.testing.assert_close(lrpet.factorize(projected, projector.plan)(x), projected(x))


def test_a_compact_network_is_compiled_and_trained_on() -> None:
    model = network()
    projector = planned(model, every=1)
    projector.project()
    compact = lrpet.factorize(model, projector.plan)
    state = compact.state_dict()
    again = lrpet.factorize(network(1), projector.plan)
    again.load_state_dict(state)
    optimizer = torch.optim.SGD(compact.parameters(), lr=0.05)
    torch._dynamo.reset()
    compiled = torch.compile(compact, backend="aot_eager")
    x = images(4, 3, 6, 6)
    torch.testing.assert_close(compiled(x), again(x))
    before = compact.get_submodule("0.0").weight.clone()  # type: ignore[operator]
    train(compiled, optimizer)  # type: ignore[arg-type]
    assert not torch.equal(compact.get_submodule("0.0").weight, before)  # type: ignore[arg-type]


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


# ── state in the optimizer, and lengths from trainers ────────────────────────────────────────────────────────────────


def test_a_plain_loop_that_saves_its_optimizer_resumes_right(tmp_path: Path) -> None:
    """Only model and optimizer are saved, as in most scripts; nothing of lrpet is mentioned."""
    whole = network()
    optimizer = torch.optim.SGD(whole.parameters(), lr=0.05, momentum=0.9)
    attach(planned(whole, start=0.5, total_steps=6, every=2), optimizer)
    train(whole, optimizer)

    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    projector = planned(model, start=0.5, total_steps=6, every=2)
    attach(projector, optimizer)
    train(model, optimizer, steps=slice(4))
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "checkpoint.pt")

    resumed = network()
    optimizer = torch.optim.SGD(resumed.parameters(), lr=0.05, momentum=0.9)
    projector = planned(resumed, start=0.5, total_steps=6, every=2)
    attach(projector, optimizer)
    checkpoint = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    resumed.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    assert projector.steps == 4
    train(resumed, optimizer, steps=slice(4, None))
    assert projector.steps == 6
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_an_optimizer_that_is_ahead_of_its_projector_is_told() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    train(model, optimizer)
    with pytest.warns(UserWarning, match="the optimizer has taken steps already, and the projector counts from 0"):
        attach(planned(model, every=2), optimizer)
    saved = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    train(model, saved)
    fresh = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    attach(planned(model, every=2), fresh)
    with pytest.warns(
        UserWarning, match="this optimizer state was saved without a projector, which goes on counting from"
    ):
        fresh.load_state_dict(saved.state_dict())


def test_detaching_takes_the_state_away_again() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    attachment = attach(planned(model, every=2), optimizer)
    assert "lrpet_projector" in optimizer.state_dict()
    attachment.remove()
    assert "lrpet_projector" not in optimizer.state_dict()


def test_a_projector_is_attached_once_and_counts_no_step_twice() -> None:
    model = network()
    optimizer, other = (torch.optim.SGD(model.parameters(), lr=0.05) for _ in range(2))
    projector = planned(model, every=2)
    attachment = attach(projector, optimizer)
    assert attach(projector, optimizer) is attachment
    train(model, optimizer)
    assert projector.steps == 6
    with pytest.raises(ValueError, match="attached to another SGD, and would count the steps of both"):
        attach(projector, other)
    with pytest.raises(ValueError, match="the optimizer's state holds another projector"):
        attach(planned(model, every=2), optimizer)
    attachment.remove()
    attach(projector, other)
    train(model, optimizer)
    assert projector.steps == 6
    train(model, other)
    assert projector.steps == 12
    del optimizer, other  # and whatever attached it
    attach(projector, torch.optim.SGD(model.parameters(), lr=0.05))


def test_lookahead_counts_every_step() -> None:
    model = network()
    optimizer = timm_optim.create_optimizer_v2(  # type: ignore[attr-defined]
        model, opt="lookahead_adamw", lr=1e-3
    )
    projector = planned(model, every=1)
    attachment = attach(projector, optimizer)
    train(model, optimizer)
    assert projector.steps == 6
    assert_low_rank(model, projector.plan)  # after the slow weights were taken over
    assert optimizer.state_dict()["lrpet_projector"]["steps"] == 6
    attachment.remove()
    train(model, optimizer)
    assert projector.steps == 6


@pytest.mark.filterwarnings("ignore")
def test_the_trainer_says_how_long_the_training_is(tmp_path: Path) -> None:
    _, projector, _ = fit(tmp_path / "lightning", epochs=1, start=0.5)
    assert (projector.total_steps, projector.start, projector.steps) == (6, 3, 6)
    _, first, trainer = fit(tmp_path / "lightning", epochs=1, start=0.5)
    trainer.save_checkpoint(tmp_path / "half.ckpt", weights_only=False)
    _, resumed, _ = fit(tmp_path / "lightning", epochs=2, start=0.5, resume=str(tmp_path / "half.ckpt"))
    assert (first.steps, resumed.total_steps, resumed.steps) == (6, 12, 12)
