"""How `benchmarks.language` trains and scores: Python's own sources, byte by byte, by AdamW."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lrpet.train.data.options import BatchOptions
from lrpet.train.data.text import TokenBatches, Tokens, load_text

CONTEXT, BATCH, WARMUP, RATE, DECAY = 128, 16, 100, 1.5e-3, 0.1
#: The part of the training files that is held out; choices are made on it.
HELD_OUT = 0.05
#: The windows that are scored: so many batches, spread over the files.
SCORED = 40


class Training:
    """The data, and a schedule of learning rates.

    Args:
        seed: That of the batches, and of the network.
        steps: Steps of a whole training.
        rate: The highest learning rate.
        warmup: Steps in which the learning rate rises.
        autocast: Whether the network computes in bfloat16 while it is trained.
    """

    def __init__(
        self, *, seed: int, steps: int, rate: float = RATE, warmup: int = WARMUP, autocast: bool = False
    ) -> None:
        text = load_text("text:stdlib", context=CONTEXT)
        self.train, self.held_out = text.train.parts(HELD_OUT)
        self.test = text.test
        self.seed, self.steps, self.rate, self.warmup, self.autocast = seed, steps, rate, warmup, autocast

    def changed(self, *, seed: int, steps: int, rate: float, warmup: int) -> Training:
        """Return another training on this text."""
        other = copy.copy(self)
        other.seed, other.steps, other.rate, other.warmup = seed, steps, rate, warmup
        return other

    @property
    def half(self) -> int:
        """Return half of the steps."""
        return self.steps // 2

    def batches(self, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches from a step on, epoch after epoch."""
        options = BatchOptions(BATCH, seed=self.seed)
        batches = TokenBatches(self.train, options, device=torch.device("cpu"), train=True)
        epoch, done = divmod(first, len(batches))
        while True:
            batches.set_epoch(epoch, done=done)
            yield from batches
            epoch, done = epoch + 1, 0

    def run(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        first: int,
        last: int,
        after: Callable[[], Any] = lambda: None,
        *,
        before: Callable[[], Any] = lambda: None,
    ) -> None:
        """Train from one step to another; call `before` and `after` around the optimizer's steps."""
        model.train()
        for step, (tokens, targets) in zip(range(first, last), self.batches(first), strict=False):
            for group in optimizer.param_groups:
                group["lr"] = self.rate * self.factor(step)
            with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
                logits = logits_of(model, tokens)
            loss = F.cross_entropy(logits.float(), targets)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            before()
            optimizer.step()
            after()

    def factor(self, step: int) -> float:
        """Return the fraction of the highest learning rate: a warm-up, then a cosine down to 5 %."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (step - self.warmup) / (self.steps - self.warmup)))

    @torch.no_grad()
    def loss(self, model: nn.Module, tokens: Tokens) -> float:
        """Return the mean loss in nats a byte on windows spread over the files."""
        model.eval()
        windows = TokenBatches(tokens, BatchOptions(32), device=torch.device("cpu"), train=False)
        every = max(1, len(windows) // SCORED)
        losses = [F.cross_entropy(logits_of(model, x), y).item() for i, (x, y) in enumerate(windows) if i % every == 0]
        return sum(losses) / len(losses)


def logits_of(model: nn.Module, tokens: Tensor) -> Tensor:
    """Return logits of shape (batch, vocabulary, length)."""
    logits: Tensor = model(**inputs_of(tokens)).logits
    return logits.transpose(1, 2)


def inputs_of(tokens: Tensor) -> dict[str, Any]:
    """Return what the model takes."""
    return {"input_ids": tokens, "use_cache": False}


def optimizer_of(
    model: nn.Module, *, undecayed: Sequence[Tensor] = (), apart: Sequence[Tensor] = ()
) -> torch.optim.AdamW:
    """Make AdamW, which decays matrices: not those that are `undecayed`; those that are `apart` are left out."""
    others, out = {id(tensor) for tensor in undecayed}, {id(tensor) for tensor in apart}
    matrices: list[Tensor] = []
    rest: list[Tensor] = []
    for parameter in model.parameters():
        if id(parameter) not in out:
            (matrices if parameter.dim() > 1 and id(parameter) not in others else rest).append(parameter)
    groups = [{"params": matrices, "weight_decay": DECAY}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.95))
