"""The arms of `benchmarks.language` that begin with the trained dense network, and make it low-rank by fine-tuning.

All have `TUNING` of the steps of the training, on batches of their own, with a third of its highest learning rate. Ranks are
uniform.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import nn

import lrpet
from benchmarks.language_arms import Start
from benchmarks.language_training import RATE, Training, optimizer_of

#: The steps of a fine-tuning, as a fraction of those of the training.
TUNING = 0.25


def tuned_dense(start: Start) -> nn.Module:
    """Fine-tune the dense network, which stays dense."""
    return _tuned(start, copy.deepcopy(start.shared.dense))


def tuned_projected(start: Start, *, energy_transfer: bool = True) -> nn.Module:
    """Project every 5 steps from the beginning of the fine-tuning to its end."""
    model, training = copy.deepcopy(start.shared.dense), _training(start)
    projector = lrpet.Projector(
        model, start.plan, total_steps=training.steps, start=0, every=5, energy_transfer=energy_transfer
    )
    _tuned(start, model, projector.step)
    return projector.finish()


def tuned_no_transfer(start: Start) -> nn.Module:
    """Project every 5 steps, without energy transfer."""
    return tuned_projected(start, energy_transfer=False)


def tuned_svd(start: Start) -> nn.Module:
    """Cut the dense network by SVD, and fine-tune the factors."""
    return _tuned(start, start.compressed(start.shared.dense))


def tuned_by_outputs(start: Start) -> nn.Module:
    """Cut the dense network by what its outputs need, and fine-tune the factors."""
    return _tuned(start, start.compressed_by_outputs(start.shared.dense))


def _tuned(start: Start, model: nn.Module, after: Callable[[], Any] = lambda: None) -> nn.Module:
    training = _training(start)
    training.run(model, optimizer_of(model), 0, training.steps, after)
    return model


def _training(start: Start) -> Training:
    whole = start.training
    steps = round(TUNING * whole.steps)
    return whole.changed(seed=whole.seed + 1000, steps=steps, rate=RATE / 3, warmup=steps // 10)


#: {name: how the arm's network comes to be}.
TUNED: dict[str, Callable[[Start], nn.Module]] = {
    each.__name__: each for each in (tuned_dense, tuned_projected, tuned_no_transfer, tuned_svd, tuned_by_outputs)
}
