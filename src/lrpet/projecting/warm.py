"""The leading subspaces of stacks, from those of the last projection where that is good enough."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, get_args

import torch
from torch import Tensor

from lrpet.projecting.solvers import WARM_TOLERANCE, Solver, leading
from lrpet.projecting.stack import Gathered, Stack
from lrpet.projecting.subspace import Subspace

#: The most projections that pass before a warm start that failed is tried again.
LONGEST_WAIT = 16


class WarmStarts:
    """What is remembered from projection to projection: bases to start from, and where that did not help.

    Args:
        solver: How subspaces are found; only "auto" starts from a basis.
        memory: Bytes that the bases may take; all of them if None.

    Raises ValueError if either is out of range.
    """

    def __init__(self, solver: Solver, memory: int | None) -> None:
        if solver not in get_args(Solver):
            raise ValueError(f"solver={solver!r} must be one of {', '.join(get_args(Solver))}")
        if memory is not None and memory < 0:
            raise ValueError(f"basis_memory={memory!r} must be a number of bytes, or None for no limit")
        self.solver = solver
        self.memory = memory
        self.bases: dict[str, Tensor] = {}
        """{layer name: basis of its leading subspace, shape (groups, smaller side, rank)}."""
        self.waits: dict[str, tuple[int, int]] = {}
        """{first layer of a stack: projections to let pass before the next try, and how many that was at first}."""
        self.solved_again = 0
        """Layers whose first solution was not good enough."""

    @property
    def nbytes(self) -> int:
        """Return the bytes that the bases take."""
        return sum(basis.nbytes for basis in self.bases.values())

    def keep_only(self, ranks: Mapping[str, int]) -> None:
        """Forget the bases that have another rank than this: they are none to start from."""
        self.bases = {name: basis for name, basis in self.bases.items() if basis.shape[-1] == ranks.get(name)}

    def solve(self, gathered: list[Gathered]) -> None:
        """Find the leading subspace of every stack; a warm start that is not good enough is solved again.

        Raises ValueError naming the layers if no solver converges.
        """
        started: dict[tuple[str, ...], bool] = {}
        for each in gathered:
            self._forget_others(each)
            start = self.start(each.stack.names) if self.solver == "auto" else None
            started[each.stack.names] = start is not None
            each.subspace = self.solved(each, self.solver, start)
        poor = _poor(gathered)
        for each in poor:  # on a GPU nothing has looked: a few steps more cost less than an eigen-solve
            if each.matrices.is_cuda and each.subspace is not None and each.subspace.solver == "warm":
                each.subspace = self.solved(each, "auto", each.subspace.basis)
        poor = _poor(poor)
        for solver in ("eigh", "svd"):
            for each in poor:
                each.subspace = self.solved(each, solver)
            poor = _poor(poor)
        if poor:
            names = (name for each in poor for name in each.stack.names)
            raise ValueError(f"no solver converged for {', '.join(names)}: nothing was projected")
        for each in gathered:
            assert each.subspace is not None
            self._learn(each.stack, started=started[each.stack.names], warm=each.subspace.solver == "warm")

    def remember(self, gathered: list[Gathered]) -> None:
        """Keep the bases for the next warm start, the smallest first, as far as the memory allowed for them goes."""
        self.bases = {}
        if self.solver != "auto":
            return
        left = float("inf") if self.memory is None else self.memory
        bases = [(each.stack.names, each.subspace.basis) for each in gathered if each.subspace is not None]
        for names, basis in sorted(bases, key=lambda pair: pair[1].nbytes):
            if (left := left - basis.nbytes) < 0:
                break
            self._hold(names, basis.contiguous())

    def all_on_gpu(self, names: Collection[str]) -> bool:
        """Tell whether all of these layers can start warm, from bases on a GPU."""
        waiting = any(left for left, _ in self.waits.values())
        return bool(names) and not waiting and all(name in self.bases and self.bases[name].is_cuda for name in names)

    def lend(self, names: Sequence[str], basis: Tensor) -> None:
        """Write the bases of layers that are solved together into `basis`, and hold that from now on."""
        held = self.start(names)
        assert held is not None
        if self.bases[names[0]].data_ptr() != basis.data_ptr():
            basis.copy_(held)
            self._hold(names, basis)

    def succeeded(self) -> None:
        """Forget that a layer's warm start was not good enough: those of all layers were."""
        self.waits.clear()

    def state_dict(self) -> dict[str, Any]:
        """Return plain values and, under "bases", tensors of its own."""
        waits = {name: list(wait) for name, wait in self.waits.items()}
        return {"waits": waits, "bases": {name: basis.clone() for name, basis in self.bases.items()}}

    def _hold(self, names: Sequence[str], basis: Tensor) -> None:
        self.bases.update(zip(names, basis.chunk(len(names)), strict=True))

    def solved(self, each: Gathered, solver: Solver, start: Tensor | None = None) -> Subspace | None:
        """Find the subspace of a stack, or return None if the solver does not converge."""
        try:
            return leading(
                each.matrices,
                each.stack.rank,
                row_scale=each.row_scale,
                start=start,
                solver=solver,
                energy=each.energy,
            )
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
            return None

    def _forget_others(self, each: Gathered) -> None:
        """Forget bases of another dtype or device than the weights have now."""
        like = each.matrices
        for name in each.stack.names:
            basis = self.bases.get(name)
            if basis is not None and (basis.dtype, basis.device) != (like.dtype, like.device):
                del self.bases[name]

    def start(self, names: Sequence[str]) -> Tensor | None:
        """Return the basis for a warm start of these layers together, if all have one and it is worth trying."""
        if self.waits.get(names[0], (0, 0))[0] or not all(name in self.bases for name in names):
            return None
        return self.bases[names[0]] if len(names) == 1 else torch.cat([self.bases[name] for name in names])

    def _learn(self, stack: Stack, *, started: bool, warm: bool) -> None:
        """Let one projection pass after a warm start that was not good enough; after the next such one, two, then four."""
        first = stack.names[0]
        waiting, pause = self.waits.get(first, (0, 0))
        if started and not warm:
            self.solved_again += len(stack.names)
            pause = min(LONGEST_WAIT, max(1, 2 * pause))
            self.waits[first] = (pause, pause)
        elif started:
            self.waits.pop(first, None)
        elif waiting:
            self.waits[first] = (waiting - 1, pause)


def _poor(gathered: Sequence[Gathered]) -> list[Gathered]:
    """Return the stacks whose subspace is not good enough. The errors of all are read from the device at once."""
    found = [each.subspace.error.amax() for each in gathered if each.subspace is not None]
    errors = iter(torch.stack([each.to(found[0].device) for each in found]).tolist() if found else [])
    return [each for each in gathered if each.subspace is None or not next(errors) <= WARM_TOLERANCE]
