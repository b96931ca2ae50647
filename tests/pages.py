"""The code blocks of README and documentation, and the names that the Python of each page takes for granted."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from helpers import images

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, its text, and the line of the page that the text begins at."""

    language: str
    text: str
    line: int


def blocks(page: Path, language: str | None = None) -> list[Block]:
    """Return the blocks of a page, in order; of one language, if it is given."""
    text = page.read_text(encoding="utf-8")
    found = [Block(each[1], each[2], text.count("\n", 0, each.start(2)) + 1) for each in BLOCK.finditer(text)]
    return [block for block in found if language in (None, block.language)]


def run(page: Path, names: dict[str, Any]) -> None:
    """Run the Python of a page from top to bottom, in one namespace; tracebacks have the lines of the page."""
    for block in blocks(page, "python"):
        exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), names)


def make_model() -> nn.Sequential:
    """Make a network for images of shape (3, 8, 8) in ten classes."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Conv2d(32, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)),
    )


def common() -> dict[str, Any]:
    """Return what most pages take for granted: a network in a training, and what came of one."""
    import lrpet

    model, example = make_model(), images(1, 3, 8, 8)
    batches = [(images(8, 3, 8, 8, seed=seed), torch.arange(8)) for seed in range(4)]
    plan = lrpet.plan(model, example, macs=0.45)
    trained = make_model()
    names = {"model": model, "make_model": make_model, "example_inputs": example, "batches": batches, "plan": plan}
    names |= {"criterion": nn.CrossEntropyLoss(), "optimizer": torch.optim.SGD(model.parameters(), lr=0.01)}
    names |= {"trained": trained, "compact": lrpet.compress(trained, example, macs=0.45), "images": batches[0][0]}
    projector = lrpet.Projector(model, plan, total_steps=len(batches), start=0)
    return names | {"torch": torch, "lrpet": lrpet, "total_steps": len(batches), "projector": projector}


def with_transformers() -> dict[str, Any]:
    """Return a small language model, and what the Hugging Face Trainer takes besides."""
    import transformers

    import lrpet
    from tiny_transformers import dense, sequences

    arguments = transformers.TrainingArguments(
        "trainer", num_train_epochs=1, save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True
    )
    names = {"model": dense("gpt2"), "language_model": dense("gpt2"), "arguments": arguments, "texts": sequences()}
    names |= {"lrpet": lrpet, "tokens": torch.randint(50, (1, 8))}
    return names | {"Trainer": transformers.Trainer, "AutoModelForCausalLM": transformers.AutoModelForCausalLM}


def with_frameworks() -> dict[str, Any]:
    """Return what the page of training loops takes for granted."""
    import lightning
    from torch.nn import functional as F

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = make_model()

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            return F.cross_entropy(self.network(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.01)

    quiet = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    digits = torch.utils.data.TensorDataset(images(16, 3, 8, 8), torch.arange(16) % 10)
    names = {
        **common(),
        "loader": torch.utils.data.DataLoader(digits, batch_size=8),
        "L": lightning,
        "module": Module(),
    }
    names["quiet"] = {**quiet, "enable_model_summary": False}
    return {**with_transformers(), **names}


def with_a_run_on_text() -> dict[str, Any]:
    """Leave what a run on text leaves."""
    from tiny_transformers import compacted

    compacted("gpt2").save_pretrained("runs/text/compact")
    return {}


def with_processes() -> dict[str, Any]:
    """Return what many GPUs take for granted, in the process group that `alone` makes."""
    from torch.distributed.fsdp import fully_shard

    folder = Path("checkpoint")
    folder.mkdir()
    return {**common(), "fully_shard": fully_shard, "folder": folder}


@contextmanager
def alone() -> Iterator[None]:
    """Be the one process of a process group."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{Path('store').absolute()}", rank=0, world_size=1)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


#: What each page with Python takes for granted.
GIVEN: dict[str, Callable[[], dict[str, Any]]] = {
    "README.md": common,
    "docs/budget.md": common,
    "docs/deploying.md": common,
    "docs/extending.md": dict,
    "docs/frameworks.md": with_frameworks,
    "docs/huggingface.md": with_transformers,
    "docs/method.md": common,
    "docs/quickstart.md": common,
    "docs/scaling.md": with_processes,
    "docs/text.md": with_a_run_on_text,
}
