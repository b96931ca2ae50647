"""Trainings that take less than a second, in forks, and what has to come out of them however often they are killed."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.faults.forks import Fork, Outcome
from lrpet.cli.failures import reported
from lrpet.compact.weights import digest
from lrpet.train import run as training
from lrpet.train.config import Config, make_config
from lrpet.train.console import Console
from lrpet.train.data import sets
from lrpet.train.data.dataset import MemoryImages

#: Images of the digits that are trained on; the whole set has 1,797.
IMAGES = 192
PLAIN: dict[str, Any] = {
    "model": "resnet8", "data": "digits", "macs": 0.5, "multiple_of": 1, "every": 2, "start": 0.4, "epochs": 3,
    "batch_size": 32, "device": "cpu", "seed": 3, "log_with": [],
}  # fmt: skip
TEXT: dict[str, Any] = {
    "data": f"text:{Path(__file__).with_name('forks.py')}",
    "model": "hf:gpt2", "model_args": {"n_embd": 16, "n_layer": 1, "n_head": 2}, "context": 16, "optimizer": "adamw",
    "lr": 3e-3, "keep": 0.5, "macs": None,
}  # fmt: skip
#: {name: what differs from PLAIN}. Text models come last: they need transformers.
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "macs": {},
    "params": {"macs": None, "params": 0.5},
    "bytes": {"macs": None, "bytes": 0.6},
    "keep": {"macs": None, "keep": 0.4},
    "two budgets": {"macs": 0.6, "params": 0.5},
    "uniform": {"allocate": "uniform", "every": 3, "start": 0.0},
    "energy": {"allocate": "energy"},
    "threshold": {"allocate": "threshold"},
    "sensitivity": {"allocate": "sensitivity"},
    "descent": {"descent": 0.8, "allocate": "energy", "start": 0.0, "every": 3},
    "linear descent": {"descent": 0.6, "descent_shape": "linear", "start": 0.0, "allocate": "uniform"},
    "shrinking": {"every": 0.2, "every_last": 1, "start": 0.0},
    "epochs": {"every": "epoch", "start": 0, "schedule": "step", "milestones": [2]},
    "adamw": {"optimizer": "adamw", "lr": 1e-3, "schedule": "cosine", "warmup_epochs": 1},
    "lamb": {"optimizer": "lamb", "lr": 2e-3},
    "nesterov": {"nesterov": True, "clip_grad": 1.0, "energy_transfer": False},
    "bf16": {"precision": "bf16"},
    "channels_last": {"channels_last": True, "solver": "eigh"},
    "mixup": {"mixup": 0.3, "cutmix": 0.5},
    "erasing": {"random_erasing": 0.4, "crop_padding": 1, "flip": True, "repeats": 2},
    "average": {"ema": 0.9},
    "accumulate": {"accumulate": 4},
    "tail": {"tail_scale": 0.3, "rectify": False, "solver": "svd"},
    "dense": {"method": "dense", "macs": None},
    "tensorboard": {"log_with": ["tensorboard"], "loss": "bce"},
    "rare checkpoints": {"checkpoint_every": 2, "label_smoothing": 0.1},
    "text": TEXT,
    "text with an average": {**TEXT, "ema": 0.9, "accumulate": 2, "schedule": "cosine"},
}


def prepare() -> None:
    """Import what trainings import, so that their forks need not, and leave out what a fault cannot touch.

    Networks are not timed at the end of a training, which takes longer than all the rest, and the digits are fewer.
    """
    import sklearn.datasets  # noqa: F401
    import timm.data
    import timm.optim  # noqa: F401
    from torch.utils.tensorboard import SummaryWriter  # noqa: F401
    from transformers import AutoModelForCausalLM, GPT2LMHeadModel  # noqa: F401

    torch.set_num_threads(1)
    digits = sets._digits()
    assert isinstance(digits.train, MemoryImages)
    assert isinstance(digits.test, MemoryImages)
    few = replace(digits, train=_first(digits.train, IMAGES), test=_first(digits.test, IMAGES // 4))
    vars(sets)["_digits"] = lambda: few
    vars(training)["quartiles"] = lambda contenders, images: dict.fromkeys(contenders, (1.0, 1.0, 1.0))
    origin: dict[str, Any] = {"command": "lrpet train", "commit": None, "hardware": {}, "versions": {}}
    vars(training)["provenance"] = lambda: origin


def _first(images: MemoryImages, count: int) -> MemoryImages:
    return images.subset(torch.arange(count))


def config_of(name: str, folder: Path, **changes: Any) -> Config:
    """Return the configuration of this name, with the run in `folder`."""
    return make_config({**PLAIN, **CONFIGURATIONS[name], "output": folder, **changes})


def start(config: Config, *, resume: bool = False, before: Callable[[], None] | None = None) -> Fork:
    """Begin a training in a fork, or go on with one; `before` is called in the fork first.

    The fork ends as the command line does, with its status and its one message.
    """

    def work() -> None:
        if before is not None:
            before()
        sys.exit(reported(lambda: train(config, resume=resume)))

    return Fork(work)


def train(config: Config, *, resume: bool = False) -> None:
    """Train here, and show nothing but warnings and errors."""
    training.train(config, resume=resume, console=Console(quiet=True))


def finished(outcome: Outcome) -> bool:
    """Whether a training came to its end."""
    return outcome.status == 0


def left_by(folder: Path) -> dict[str, Any]:
    """Return what a finished run comes to: the digest of its weights, its plan, and what it logged, times left out."""
    logged = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    for line in logged:
        for name in [name for name in line if "second" in name]:
            del line[name]
    return {
        "weights": digest(folder / "compact" / "model.safetensors"),
        "plan": digest(folder / "plan.json"),
        "metrics": hashlib.sha256(json.dumps(logged).encode()).hexdigest(),
    }


def differing(folder: Path, whole: Mapping[str, Any]) -> list[str]:
    """Return in what a finished run differs from the whole one."""
    try:
        here = left_by(folder)
    except (OSError, ValueError) as error:
        return [f"unreadable: {error}"]
    return [name for name, value in whole.items() if here[name] != value]


def leftovers(folder: Path) -> list[str]:
    """Return the temporary files and folders beside a run and in it, which killed writers left; its lock is none."""
    inside = [path for path in folder.parent.rglob(".*") if path.name != ".lock"]
    return sorted(str(path.relative_to(folder.parent)) for path in inside)
