"""Small training runs on the digits that come with scikit-learn, and what they leave."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import lrpet
from lrpet.train.config import Config, make_config
from lrpet.train.console import Console
from lrpet.train.run import train

QUICK: dict[str, Any] = {
    "model": "resnet20",
    "data": "digits",
    "macs": 0.5,
    "every": "epoch",
    "epochs": 2,
    "batch_size": 128,
    "device": "cpu",
    "seed": 3,
}


def quick(folder: Path, **changes: Any) -> Config:
    return make_config({**QUICK, "output": folder, **changes})


def run(config: Config, *, resume: bool = False) -> dict[str, Any]:
    return train(config, resume=resume, console=Console(quiet=True))


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "compact" / "model.safetensors")


def save_tokenizer(folder: Path, *words: str) -> None:
    """Save a tokenizer of transformers that knows these words; the first ends a text, the last stands for all others."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    model = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token=words[-1]))
    model.pre_tokenizer = Whitespace()
    fast: Any = PreTrainedTokenizerFast
    fast(tokenizer_object=model, eos_token=words[0], unk_token=words[-1]).save_pretrained(folder)


class Killed(Exception):
    """Stands for a process that died."""


@contextmanager
def killed_at(step: int) -> Iterator[None]:
    """Let a training die inside the block, at this step."""
    taken, whole_step = 0, lrpet.Projector.step

    def dying(self: lrpet.Projector) -> Any:
        nonlocal taken
        taken += 1
        if taken == step:
            raise Killed
        return whole_step(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lrpet.Projector, "step", dying)
        with pytest.raises(Killed):
            yield


@contextmanager
def told_at(step: int, number: signal.Signals) -> Iterator[None]:
    """Let a training be sent a signal inside the block, after this step."""
    whole_step = lrpet.Projector.step

    def signalling(self: lrpet.Projector) -> Any:
        report = whole_step(self)
        if self.steps == step:
            signal.raise_signal(number)
        return report

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lrpet.Projector, "step", signalling)
        yield
