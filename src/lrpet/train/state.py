"""The state of a training: what it works on, and the random numbers that it draws."""

from __future__ import annotations

import random
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lrpet import Projector
from lrpet.train.average import Average


@dataclass(frozen=True)
class TrainingState:
    """What a checkpoint holds and restores in place."""

    network: nn.Module
    optimizer: Optimizer
    projector: Projector
    _: KW_ONLY
    scaler: torch.amp.GradScaler | None = None
    """The scale of the loss in float16."""
    average: Average | None = None

    def shared(self) -> dict[str, Any]:
        """Return what all processes of a training have alike, but for the projector's state."""
        return {
            "network": dict(self.network.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict() if self.scaler is not None else None,
            "average": self.average.state() if self.average is not None else None,
        }

    def restore_(self, shared: dict[str, Any]) -> None:
        """Take over what `shared` returned. Raises RuntimeError, KeyError or ValueError if it is of another training."""
        self.network.load_state_dict(shared["network"])
        self.optimizer.load_state_dict(shared["optimizer"])
        for parameter, state in self.optimizer.state.items():
            for name, value in state.items():  # with the memory layout of the weight, as before
                if isinstance(value, Tensor) and value.shape == parameter.shape and value.dim():
                    state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        if self.scaler is not None:
            self.scaler.load_state_dict(shared["scaler"])
        if self.average is not None:
            self.average.restore_(shared["average"])


def random_state(device: torch.device) -> dict[str, Any]:
    """Return the state of every generator of random numbers that this process draws from."""
    kind, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002  # timm's mixup draws from it
    return {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def set_random_state_(state: dict[str, Any], device: torch.device) -> None:
    """Go on with the random numbers from where `random_state` was called.

    Raises KeyError, TypeError, ValueError or RuntimeError for anything else.
    """
    kind, keys, *rest = state["numpy"]
    random.setstate(state["python"])
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)
