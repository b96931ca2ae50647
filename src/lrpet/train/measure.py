"""What a network is worth: its loss and its accuracy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lrpet.layers import evaluating


class Score(NamedTuple):
    """Mean loss and accuracy (a fraction) of a classifier on a set of images, or of a language model on tokens."""

    loss: float
    accuracy: float

    @property
    def perplexity(self) -> float:
        """The exponential of the loss; at most that of 700, which a float can hold."""
        return math.exp(min(self.loss, 700.0))


class Running:
    """A score that grows batch by batch, kept on the device: adding to it never waits for the device."""

    def __init__(self, device: torch.device, totals: Sequence[float] = (0.0, 0.0, 0.0)) -> None:
        exact = torch.float32 if device.type == "mps" else torch.float64  # tokens are too many for 24 bits
        self._totals = torch.tensor(totals, device=device, dtype=exact)

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: `loss` is its mean, `logits` has shape (batch, classes, …), `labels` (batch, …)."""
        right = (logits.detach().argmax(1) == labels).sum()
        mean = loss.detach().to(self._totals.dtype)
        count = labels.numel()
        self._totals += torch.stack([mean * count, right.to(mean.dtype), torch.full_like(mean, count)])

    def totals(self, total: Callable[[Tensor], Tensor]) -> tuple[float, ...]:
        """Return loss and right answers, added up over labels, and the number of labels, of all processes."""
        return tuple(total(self._totals.clone()).tolist())

    def score(self, total: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> Score:
        """Return the score so far, or with a `total` that of all processes; zeros before the first batch."""
        loss, right, count = self.totals(total)
        return Score(loss=loss / max(count, 1), accuracy=right / max(count, 1))


@torch.no_grad()
def score(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    forward: Callable[[nn.Module, Tensor], Tensor] = lambda model, inputs: model(inputs),
    autocast: AbstractContextManager[None] | None = None,
    total: Callable[[Tensor], Tensor] | None = None,
) -> Score:
    """Take mean cross-entropy and accuracy of `model` in eval mode over all `batches`.

    `forward` gives the logits of a batch, with the classes in dimension 1. `total` sums a tensor over processes that each
    have some of the batches. Every module is in its own mode again afterwards. Raises ValueError if there are no batches here,
    unless others may have some.
    """
    running = None if total is None else Running(next(model.parameters()).device)
    with evaluating(model), autocast or nullcontext():
        for inputs, labels in batches:
            logits = forward(model, inputs).float()
            running = running or Running(inputs.device)
            running.add(F.cross_entropy(logits, labels), logits, labels)
    if running is None:
        raise ValueError("there is nothing to score the network on: this part of the data is empty")
    return running.score() if total is None else running.score(total)
