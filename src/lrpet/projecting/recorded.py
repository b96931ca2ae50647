"""Warm projections as CUDA graphs, so that those of small networks do not wait for the processor to launch their kernels."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lrpet.layers.matrix import MatrixLayer
from lrpet.projecting.in_force import PlanInForce
from lrpet.projecting.projection import Energies
from lrpet.projecting.sharing import Found, TransferOf
from lrpet.projecting.solvers import WARM_TOLERANCE
from lrpet.projecting.stack import Gathered, Stack
from lrpet.projecting.warm import WarmStarts
from lrpet.sharding.work import together

#: Networks with more planned weights keep a GPU busy as they are, and a recording would hold on to copies of all of them.
RECORDED_UP_TO = 2**25
#: Recordings after which each must have been replayed twice on average: else the weights move in memory too often.
RECORDINGS = 4


@dataclass(eq=False)
class _Recording:
    """Two graphs: one that finds all subspaces, one that changes the weights. The host looks at the errors in between."""

    stacks: Sequence[Stack]
    solve: torch.cuda.CUDAGraph
    write: torch.cuda.CUDAGraph
    errors: Tensor
    """The worst error of every stack, Inf or NaN if a weight or batch norm is not finite, shape (stacks,)."""
    energies: Tensor
    """The fields of `Energies` for all matrices, float64, shape (4, matrices)."""
    bases: list[Tensor]
    """The basis of every stack: where `solve` starts, and what `write` leaves for the next projection."""


class Recorder:
    """Replays warm projections, once one is recorded; where this cannot be done, it says so by returning None.

    A recording holds while the weights stay where they are in memory, and ranks and options stay what they are.

    Args:
        warm: The bases to start from.
        transfer: What becomes of the weights of a stack, (E4).
        options: What `transfer` depends on but for its argument.
    """

    def __init__(self, warm: WarmStarts, transfer: TransferOf, options: Callable[[], Mapping[str, Hashable]]) -> None:
        self._warm = warm
        self._transfer = transfer
        self._options = options
        self._recording: _Recording | None = None
        self._recorded_for: Hashable = None
        self._refused = False
        self._recordings = 0
        self.replays = 0
        """Projections that were replayed."""

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the graphs, which belong to this process and these weights: a copy records its own."""
        return {**self.__dict__, "_recording": None, "_recorded_for": None}

    def project(self, in_force: PlanInForce) -> Found | None:
        """Project all layers, and return what happened to their energies.

        Returns None, and changes nothing, where kernels have to be launched one by one. That is so before there are bases of
        all layers, if a basis is not good enough or a weight not finite, if the weights are in float16, shared with other
        processes or on several devices, if they are more than `RECORDED_UP_TO`, and if they move in memory all the time.
        """
        if self._refused or not in_force.settled or not self._warm.all_on_gpu(in_force.ranks):
            return None
        key = (_places(in_force.layers.values()), tuple(in_force.ranks.items()), tuple(self._options().items()))
        if self._recorded_for != key:
            self._recorded_for, self._recording, stacks = key, None, in_force.stacks()
            self._refused = self._recordings >= RECORDINGS and self.replays < 2 * self._recordings
            if not self._refused and _can_be_recorded(stacks):
                self._recording = self._record(stacks)
                self._recordings += 1
        recording = self._recording
        if recording is None:
            return None
        for stack, basis in zip(recording.stacks, recording.bases, strict=True):
            self._warm.lend(stack.names, basis)
        recording.solve.replay()
        if not all(error <= WARM_TOLERANCE for error in recording.errors.tolist()):
            return None
        recording.write.replay()
        self._warm.succeeded()
        self.replays += 1
        sizes = [stack.batch for stack in recording.stacks]
        parts = recording.energies.clone().split_with_sizes(sizes, dim=1)
        return [
            (stack.names, Energies(part[0], part[1], part[2], part[3] > 0))
            for stack, part in zip(recording.stacks, parts, strict=True)
        ]

    def _record(self, stacks: Sequence[Stack]) -> _Recording | None:
        """Record both graphs, which changes no weight; None, with a warning, if PyTorch cannot."""
        bases = [start.clone() for stack in stacks if (start := self._warm.start(stack.names)) is not None]
        solve, write = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        stream: torch.cuda.Stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(stream):  # libraries set themselves up in their first calls
                for each in self._solved(stacks, bases)[0]:
                    self._transfer(each)
            torch.cuda.current_stream().wait_stream(stream)
            with torch.cuda.graph(solve, stream=stream, capture_error_mode="thread_local"):
                gathered, errors = self._solved(stacks, bases)
            with torch.cuda.graph(write, pool=solve.pool(), stream=stream, capture_error_mode="thread_local"):
                energies = self._written(gathered, bases)
        except RuntimeError as error:
            self._refused = True
            warnings.warn(f"projections are not replayed as CUDA graphs: {error}", stacklevel=5)
            return None
        return _Recording(stacks, solve, write, errors, energies, bases)

    def _solved(self, stacks: Sequence[Stack], bases: Sequence[Tensor]) -> tuple[list[Gathered], Tensor]:
        """Find the subspaces of all stacks, and their errors."""
        gathered = [stack.gather({}) for stack in stacks]
        for each, basis in zip(gathered, bases, strict=True):
            each.subspace = self._warm.solved(each, "auto", basis)
        worst = [
            torch.where(each.finite.all(), each.subspace.error.amax(), torch.inf)
            for each in gathered
            if each.subspace is not None
        ]
        return gathered, torch.stack([each.double() for each in worst])

    def _written(self, gathered: Sequence[Gathered], bases: Sequence[Tensor]) -> Tensor:
        """Change the weights and the bases of all stacks, and return their energies."""
        parts = []
        for each, basis in zip(gathered, bases, strict=True):
            found, energies = self._transfer(each)
            each.stack.write_(found.applied(each.matrices).to(each.stack.layers[0].weight.dtype), {})
            assert each.subspace is not None
            basis.copy_(each.subspace.basis)
            parts.append(torch.stack([field.double() for field in energies]))
        return torch.cat(parts, dim=1)


def _places(layers: Iterable[MatrixLayer]) -> Hashable:
    """Return where the weights and batch norms are in memory, their types, and the batch norms' ε."""
    return tuple(
        (
            getattr(layer.batch_norm, "eps", None),
            *((each.data_ptr(), each.dtype, each.device, each.stride()) for each in _tensors(layer)),
        )
        for layer in layers
    )


def _tensors(layer: MatrixLayer) -> list[Tensor]:
    norm = layer.batch_norm
    found = [layer.weight] if norm is None else [layer.weight, norm.running_var, norm.weight]
    return [each for each in found if isinstance(each, Tensor)]


def _can_be_recorded(stacks: Sequence[Stack]) -> bool:
    work = [each for stack in stacks for each in stack.work]
    weights = [each.layer.weight for each in work]
    return (
        len({weight.device for weight in weights}) == 1
        and weights[0].is_cuda
        and not together(work)
        and not any(stack.is_narrow for stack in stacks)
        and not any(each.layer.computed for each in work)
        and sum(weight.numel() for weight in weights) <= RECORDED_UP_TO
    )
