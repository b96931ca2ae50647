"""A small GPT that is trained in the loops of frameworks, its weights sharded by FSDP2, and in a plain loop alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import transformers
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader

import lrpet
from lrpet.integrations.optimizer import attach

TOKENS = torch.randint(0, 50, (32, 8), generator=torch.Generator().manual_seed(0))
#: No loss is taken of a row's first token, which the Hugging Face Trainer would count otherwise.
ROWS = [{"input_ids": row, "labels": torch.cat([torch.tensor([-100]), row[1:]])} for row in TOKENS]
BATCH, EPOCHS, RATE = 8, 2, 0.2


def gpt() -> Any:
    """Return a GPT of two blocks."""
    torch.manual_seed(0)
    drop: dict[str, Any] = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    config = transformers.GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=2, n_positions=16, **drop)
    return transformers.GPT2LMHeadModel(config)


def planned(model: nn.Module) -> lrpet.Projector:
    """Return a projector that divides its budget again half-way."""
    plan = lrpet.plan(model, {"input_ids": TOKENS[:1]}, macs=0.6, multiple_of=1)
    return lrpet.Projector(model, plan, every=2)


def batches() -> DataLoader[Any]:
    """Return this process's part of every batch."""
    size, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    return DataLoader(ROWS[rank::size], batch_size=BATCH // size)  # type: ignore[arg-type]


def found(model: nn.Module, projector: lrpet.Projector, folder: Path) -> dict[str, Any]:
    """Return whole weights and, in process 0, what the compact network computes as saved and loaded."""
    compact = projector.finish()
    weights = {name: each.detach().cpu().clone() for name, each in _whole(model).items()}
    logits = []
    if not dist.is_initialized() or dist.get_rank() == 0:
        compact.save_pretrained(folder / "compact")  # type: ignore[operator]
        loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(folder / "compact")
        logits = [loaded.eval()(TOKENS[:4]).logits.detach()]
    return {
        "weights": weights,
        "logits": logits,
        "steps": projector.steps,
        "ranks": projector.plan.ranks,
        "devices": sorted({each.device.type for each in compact.parameters()}),
    }


def _whole(model: nn.Module) -> dict[str, Tensor]:
    parameters: dict[str, Any] = dict(model.named_parameters())
    return {name: each.full_tensor() if hasattr(each, "full_tensor") else each for name, each in parameters.items()}


def _steps(
    model: Any,
    optimizer: Any,
    data: Iterable[Any],
    after: Callable[[], Any] = lambda: None,
    backward: Callable[[Tensor], Any] = Tensor.backward,
) -> None:
    for batch in data:
        optimizer.zero_grad()
        backward(model(**batch).loss)
        optimizer.step()
        after()


def plain(sharding: bool, folder: Path) -> dict[str, Any]:
    """Train in a plain loop, in this process or sharded by `fully_shard`."""
    model = gpt()
    projector = planned(model)
    projector.total_steps = EPOCHS * len(ROWS) // BATCH
    if sharding:
        for block in model.transformer.h:
            fully_shard(block)
        fully_shard(model)
    data = [batch for _ in range(EPOCHS) for batch in batches()]
    _steps(model, torch.optim.SGD(model.parameters(), lr=RATE), data, projector.step)
    return found(model, projector, folder)


def _sharding_on_cpus() -> None:
    """Let accelerate shard on CPUs as it does on GPUs. It would quietly take DistributedDataParallel instead."""
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType

    whole: Any = AcceleratorState.__init__

    def init(self: Any, *args: Any, fsdp_plugin: Any = None, **options: Any) -> None:
        whole(self, *args, fsdp_plugin=fsdp_plugin, **options)
        if fsdp_plugin is not None:
            self.fsdp_plugin = fsdp_plugin
            PartialState().distributed_type = self.distributed_type = DistributedType.FSDP

    AcceleratorState.__init__ = init


def accelerate(folder: Path) -> dict[str, Any]:
    """Train with accelerate's FSDP2, and go on from what it saved after the first projection."""
    from accelerate import Accelerator, FullyShardedDataParallelPlugin

    _sharding_on_cpus()
    steps = EPOCHS * len(ROWS) // BATCH
    for begin, end in ((0, 5), (5, steps)):
        plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2, auto_wrap_policy="transformer_based_wrap", transformer_cls_names_to_wrap=["GPT2Block"]
        )
        accelerator = Accelerator(cpu=True, fsdp_plugin=plugin)
        model = gpt()
        projector = planned(model)
        model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=RATE))
        projector.total_steps = steps
        attach(projector, optimizer, keep_state=False)
        accelerator.register_for_checkpointing(projector)
        if begin:
            accelerator.load_state(folder / "state")
        data = [batch for _ in range(EPOCHS) for batch in batches()][begin:end]
        _steps(model, optimizer, data, backward=accelerator.backward)
        if not begin:
            accelerator.save_state(folder / "state")
    return found(model, projector, folder)


def lightning(folder: Path) -> dict[str, Any]:
    """Train with Lightning's ModelParallelStrategy."""
    import lightning as L
    from lightning.pytorch.strategies import ModelParallelStrategy

    from lrpet.integrations.lightning import ProjectorCallback

    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = gpt()

        def configure_model(self) -> None:
            if not hasattr(self.network, "reshard"):
                mesh = self.device_mesh["data_parallel"]  # type: ignore[index]
                for block in self.network.transformer.h:
                    fully_shard(block, mesh=mesh)
                fully_shard(self.network, mesh=mesh)

        def train_dataloader(self) -> DataLoader[Any]:
            return batches()

        def training_step(self, batch: Any, _: int) -> Tensor:
            loss: Tensor = self.network(**batch).loss
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=RATE)

    module = Module()
    projector = planned(module.network)
    trainer = L.Trainer(
        default_root_dir=folder,
        max_epochs=EPOCHS,
        accelerator="cpu",
        strategy=ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1),
        devices=2,
        use_distributed_sampler=False,  # it would shuffle
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[ProjectorCallback(projector)],
    )
    trainer.fit(module)
    return found(module.network, projector, folder)


def huggingface(folder: Path) -> dict[str, Any]:
    """Train with the Hugging Face Trainer's FSDP2, in the order of the rows, and keep a checkpoint."""
    from torch.utils.data import SequentialSampler

    from lrpet.integrations.huggingface import LrpetCallback

    _sharding_on_cpus()

    class InOrder(transformers.Trainer):
        def _get_train_sampler(self, *_: Any, **__: Any) -> Any:
            return SequentialSampler(ROWS)

    model = gpt()
    projector = planned(model)
    arguments = transformers.TrainingArguments(
        str(folder),
        per_device_train_batch_size=BATCH // 2,
        num_train_epochs=EPOCHS,
        optim="sgd",
        learning_rate=RATE,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        fsdp="full_shard",
        fsdp_config={"version": 2, "transformer_layer_cls_to_wrap": ["GPT2Block"]},
    )
    trainer = InOrder(model, arguments, train_dataset=ROWS, callbacks=[LrpetCallback(projector)])
    trainer.train()
    return found(model, projector, folder)
