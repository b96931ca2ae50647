"""The moving average of a network's weights, and the low-rank network that it stands for."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_model
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lrpet import Projector
from lrpet.compact.weights import load_weights
from lrpet.train.processes import Processes

_FILE = "average.safetensors"


class Average:
    """An exponential moving average of weights and buffers: after every step, average ← decay·average + (1 − decay)·weights.

    Weights of rank r average to a matrix of higher rank, since their subspaces turn while they train. The low-rank network
    that is nearest to the average is its projection, by Eckart and Young, so a projected copy is scored and kept at the end.
    The average itself is never projected. Since a projection, only 1 − decay^every of it is new, 0.05 % with 0.9999 and every
    five steps. That part would be in the tail and cut each time, so that the average could never leave the first
    projection's subspace. To begin afresh at each projection would average no more than `every` steps.

    The average begins as the network after its first step.
    """

    def __init__(self, network: nn.Module, decay: float, *, device: torch.device) -> None:
        update = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        self._averaged = AveragedModel(network, device, multi_avg_fn=update, use_buffers=True)

    def update(self, network: nn.Module) -> None:
        """Take the weights of `network` in, once after every optimizer step and projection."""
        self._averaged.update_parameters(network)

    def network(self, projector: Projector, processes: Processes) -> nn.Module:
        """Return the averaged network: a projected copy, once the training network itself has been projected.

        All processes have to call, and get the batch norms' statistics of process 0.
        """
        processes.equalise(self._averaged.module.buffers())
        if projector.steps < projector.start and projector.last is None:
            return self._averaged.module
        return projector.projected_copy(self._averaged.module)

    def save(self, checkpoint: Path) -> None:
        """Write the average into the folder of a checkpoint."""
        save_model(self._averaged.module, str(checkpoint / _FILE))

    def load(self, checkpoint: Path) -> None:
        """Go on from the average in the folder of a checkpoint. Raises as `load_weights` does if it is another network's."""
        load_weights(self._averaged.module, checkpoint / _FILE)
        self._averaged.n_averaged.fill_(1)  # all it is asked for is whether the first step was taken
