"""The moving average of a network's weights, and the low-rank network that it stands for."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lrpet import Projector
from lrpet.train.processes import Processes


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

    def state(self) -> dict[str, Tensor]:
        """Return the averaged weights and buffers."""
        return dict(self._averaged.module.state_dict())

    def restore_(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` returned. Raises RuntimeError if it is another network's."""
        self._averaged.module.load_state_dict(state)
        self._averaged.n_averaged.fill_(1)  # all it is asked for is whether the first step was taken
