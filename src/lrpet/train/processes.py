"""The processes of one training, as torchrun or `accelerate launch` starts them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from accelerate import PartialState
from accelerate.utils import broadcast, gather_object, reduce
from torch import Tensor

from lrpet.sharding.placement import is_together


@dataclass(frozen=True)
class Processes:
    """The processes of a training, and which of them this is. One that was started by itself is alone."""

    on_cpu: bool
    rank: int = 0
    count: int = 1
    outer: bool = False
    """Whether the caller had joined them before, and leaves them himself."""

    @classmethod
    def joined(cls, device: str) -> Processes:
        """Join the others, if there are any; `device` is "auto", "cpu" or "cuda"."""
        launched, outer = int(os.environ.get("WORLD_SIZE", "1")) > 1, is_together()
        if not launched and not outer:
            return cls(device == "cpu")
        on_cpu = device == "cpu" or not torch.cuda.is_available()
        state = PartialState(cpu=on_cpu)
        return cls(on_cpu, state.process_index, state.num_processes, outer)

    @property
    def main(self) -> bool:
        """Whether this process writes what they share."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait for the others."""
        if self.count > 1:
            PartialState(cpu=self.on_cpu).wait_for_everyone()

    def leave(self) -> None:
        """Leave the others, once all are done."""
        if self.count > 1 and not self.outer:
            PartialState(cpu=self.on_cpu).destroy_process_group()
            PartialState._reset_state()

    @property
    def total(self) -> Callable[[Tensor], Tensor]:
        """Return what sums a tensor over all processes."""
        return (lambda tensor: reduce(tensor, "sum")) if self.count > 1 else (lambda tensor: tensor)

    def union(self, values: dict[str, str]) -> dict[str, str]:
        """Put the values of all processes together. All have to call."""
        if self.count == 1:
            return values
        return {name: value for each in gather_object([values]) for name, value in each.items()}

    @torch.no_grad()
    def equalise(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors with those of process 0."""
        if self.count > 1:
            for tensor in tensors:
                tensor.copy_(broadcast(tensor.clone(), from_process=0))
