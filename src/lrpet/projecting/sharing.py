"""One projection in one process or many: each stack is solved by its owner, and its new weights reach all processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from lrpet.projecting.projection import Energies, Transfer
from lrpet.projecting.stack import Gathered, Stack
from lrpet.sharding.exchange import agreeing, broadcast_, summed_
from lrpet.sharding.placement import Replicated
from lrpet.sharding.work import device_of, give_back, held, together

#: What becomes of the weights of a stack, and what happens to its energies.
TransferOf = Callable[[Gathered], tuple[Transfer, Energies]]
#: The names of every stack's layers with their energies.
Found = list[tuple[tuple[str, ...], Energies]]


class Sharing:
    """The stacks of one projection, and what this process holds of them. A process alone sends nothing.

    Where weights are replicated, as under DistributedDataParallel, the owner of a stack broadcasts o, L and R of
    W ← o·W + L·R: about r·(m + n) numbers for a weight of m × n. All processes compute one product from one set of
    numbers, so that replicas stay equal. Where weights are sharded, as under `fully_shard`, their rows go to the owner and
    come back: m·n numbers each way. Batch norms' statistics, a few numbers for each stack, and the energies go along.
    """

    def __init__(self, stacks: Sequence[Stack]) -> None:
        self.stacks = stacks
        self._work = [each for stack in stacks for each in stack.work]
        self._together = together(self._work)
        self._device = device_of(self._work)
        self.held = held(self._work)
        """{name: layer} of the layers that are projected here, with whole weights."""

    def gather(self) -> list[Gathered]:
        """Return what is to be solved here."""
        return [stack.gather(self.held) for stack in self.stacks if stack.here]

    def agreeing(self) -> AbstractContextManager[None]:
        """Raise in every process what any of them raises in the block."""
        return agreeing(self._device, together=self._together)

    def spread(self, gathered: Iterable[Gathered], transfer: TransferOf) -> Found:
        """Project the stacks that were solved here, and take over what was found elsewhere.

        Returns the names of every stack's layers with their energies. Raises ValueError, before any weight is changed, if
        weights would be beyond the range of their dtype.
        """
        mine = {each.stack.names: each for each in gathered}
        energies: dict[tuple[str, ...], Energies] = {}
        inner = dict(zip(self.stacks, self._inner(mine), strict=True))

        def projected(stack: Stack) -> Tensor | None:
            each = mine.get(stack.names)
            found = None
            if each is not None:
                found, energies[stack.names] = transfer(each)
            if isinstance(stack.placement, Replicated):
                found = _received(stack, found, inner[stack])
            if found is None:
                return None
            weights = stack.matrices(self.held) if each is None else each.matrices
            return found.applied(weights, out=weights).to(stack.layers[0].weight.dtype)

        narrow = {stack: projected(stack) for stack in self.stacks if stack.is_narrow}
        if narrow:
            with self.agreeing():
                _check_range(narrow)
        for stack in self.stacks:
            new = narrow[stack] if stack in narrow else projected(stack)
            if new is not None:
                stack.write_(new, self.held)
        give_back(self._work, self.held)
        return list((self._everywhere(energies) if self._together else energies).items())

    def _inner(self, mine: dict[tuple[str, ...], Gathered]) -> list[int]:
        """Return for each stack the inner size of the product L·R, which its owner knows; 8 bytes each are sent."""
        sizes = [mine[stack.names].inner if stack.speaks else 0 for stack in self.stacks]
        return sizes if not self._together else summed_(torch.tensor(sizes, device=self._device)).tolist()

    def _everywhere(self, energies: dict[tuple[str, ...], Energies]) -> dict[tuple[str, ...], Energies]:
        """Return the energies of all stacks; 32 bytes for each matrix are sent."""
        parts = [
            torch.stack([x.to(self._device, torch.float64) for x in energies[stack.names]])
            if stack.speaks
            else torch.zeros(len(Energies._fields), stack.batch, dtype=torch.float64, device=self._device)
            for stack in self.stacks
        ]
        whole = summed_(torch.cat(parts, dim=1)).split_with_sizes([stack.batch for stack in self.stacks], dim=1)
        return {
            stack.names: Energies(part[0], part[1], part[2], part[3] > 0)
            for stack, part in zip(self.stacks, whole, strict=True)
        }


def _check_range(projected: Mapping[Stack, Tensor | None]) -> None:
    """Raise ValueError naming the layers whose new weights are Inf in their dtype."""
    beyond = [name for stack, new in projected.items() if new is not None for name in stack.beyond_range(new)]
    if beyond:
        raise ValueError(
            f"the projected weights of {', '.join(beyond)} would be beyond the range of float16: nothing was projected. Train "
            "in bfloat16 or float32, or with smaller weights"
        )


def _received(stack: Stack, found: Transfer | None, inner: int) -> Transfer:
    """Return what the owner of a replicated stack found, to every process."""
    if found is None:
        like, shape = stack.layers[0].weight, stack.layers[0].shape
        rows, dtype = shape.rows // shape.groups, torch.promote_types(like.dtype, torch.float32)

        def empty(*sizes: int) -> Tensor:
            return torch.empty(stack.batch, *sizes, dtype=dtype, device=like.device)

        found = Transfer(empty(), empty(rows, inner), empty(inner, shape.columns))
    found = Transfer(*(tensor.contiguous() for tensor in found))  # products of other layouts round otherwise
    try:
        broadcast_(found, stack.owner, stack.placement.group)
    except RuntimeError as error:  # it ended, or the process group's time is up
        raise RuntimeError(
            f"process {stack.owner} did not send what it found for {', '.join(stack.names)}: {error}"
        ) from error
    return found
