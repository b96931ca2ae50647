"""What a network is worth and what it costs: accuracy, bytes, latency."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lrpet.layers import evaluating


class Score(NamedTuple):
    """Mean loss and accuracy (a fraction) of a classifier on a set of images."""

    loss: float
    accuracy: float


class Running:
    """A score that grows batch by batch, kept on the device: adding to it never waits for the device."""

    def __init__(self, device: torch.device) -> None:
        self._totals = torch.zeros(3, device=device)

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: `loss` is its mean, `logits` has shape (batch, classes), `labels` (batch,)."""
        right = (logits.detach().argmax(1) == labels).sum()
        self._totals += torch.stack(
            [loss.detach() * len(labels), right.float(), torch.full_like(loss.detach(), len(labels))]
        )

    def score(self) -> Score:
        """Return the score so far; zeros before the first batch."""
        loss, right, count = self._totals.tolist()
        return Score(loss=loss / max(count, 1), accuracy=right / max(count, 1))


@torch.no_grad()
def score(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], *, autocast: AbstractContextManager[None] | None = None
) -> Score:
    """Take mean cross-entropy and accuracy of `model` in eval mode over all `batches`.

    Every module is in its own mode again afterwards. Raises ValueError if there are no batches.
    """
    running: Running | None = None
    with evaluating(model), autocast or nullcontext():
        for images, labels in batches:
            logits = model(images).float()
            running = running or Running(images.device)
            running.add(F.cross_entropy(logits, labels), logits, labels)
    if running is None:
        raise ValueError("there are no images to score the network on")
    return running.score()


def size_in_bytes(model: nn.Module) -> int:
    """Count the bytes of all parameters and buffers that are saved, shared ones once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in model.state_dict().values()}
    return sum(storages.values())


@torch.no_grad()
def latency(models: Mapping[str, nn.Module], example: Tensor, *, seconds: float = 1.0) -> dict[str, float]:
    """Measure the median milliseconds of one forward pass of each model on `example`, in eval mode on its device.

    The contenders take turns, so that a machine busy with other work slows all of them alike. `seconds` bounds the
    time that each of them is measured for; at least five rounds are run.
    """
    times: dict[str, list[float]] = {name: [] for name in models}
    with evaluating(*models.values()):
        for model in models.values():
            model(example)  # warm-up
        started = time.perf_counter()
        while len(next(iter(times.values()))) < 5 or time.perf_counter() - started < seconds * len(models):
            for name, model in models.items():
                begin = time.perf_counter()
                model(example)
                if example.is_cuda:
                    torch.cuda.synchronize()
                times[name].append(1e3 * (time.perf_counter() - begin))
    return {name: statistics.median(values) for name, values in times.items()}
