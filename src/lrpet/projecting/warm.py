"""The leading subspaces of stacks, from those of the last projection where that is good enough."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lrpet.projecting.solvers import WARM_TOLERANCE, Solver, leading
from lrpet.projecting.stack import Stack
from lrpet.projecting.subspace import Subspace

#: The most projections that pass before a warm start that failed is tried again.
LONGEST_WAIT = 16


class WarmStarts:
    """What is remembered from projection to projection: bases to start from, and where that did not help."""

    def __init__(self, solver: Solver, memory: int | None) -> None:
        self.solver = solver
        self.memory = memory
        """Bytes that the bases may take; all of them if None."""
        self.bases: dict[str, Tensor] = {}
        """{layer name: basis of its leading subspace, (groups, smaller side, rank)}."""
        self.waits: dict[str, tuple[int, int]] = {}
        """{first layer of a stack: projections to let pass before the next try, and how many that was at first}."""
        self.solved_again = 0
        """Layers whose first solution was not good enough."""

    @property
    def nbytes(self) -> int:
        """Memory that the bases take."""
        return sum(basis.nbytes for basis in self.bases.values())

    def keep_only(self, ranks: Mapping[str, int]) -> None:
        """Forget the bases of other ranks than these: they are none to start from."""
        self.bases = {name: basis for name, basis in self.bases.items() if basis.shape[-1] == ranks.get(name)}

    def solve(self, stacks: list[Stack], scales: list[Tensor | None], energies: list[Tensor]) -> list[Subspace]:
        """The leading subspace of every stack; a warm start that is not good enough is solved again.

        Raises ValueError naming the layers if no solver converges.
        """
        given = list(zip(stacks, scales, energies, strict=True))
        first = [self._solved(*each, self.solver) for each in given]
        found = []
        for each, subspace in zip(given, first, strict=True):  # only now is anything read from a GPU
            stack = each[0]
            started = self.solver == "auto" and self._start(stack) is not None
            for solver in ("eigh", "svd"):
                if subspace is not None and bool((subspace.error <= WARM_TOLERANCE).all()):
                    break
                subspace = self._solved(*each, solver)
            else:
                if subspace is None or not bool(subspace.error.isfinite().all()):
                    raise ValueError(f"no solver converged for {', '.join(stack.names)}: nothing was projected")
            self._learn(stack, started=started, warm=subspace.solver == "warm")
            found.append(subspace)
        return found

    def remember(self, stacks: list[Stack], found: list[Subspace]) -> None:
        """Keep the bases for the next warm start, the smallest first, as far as the memory allowed for them goes."""
        self.bases = {}
        if self.solver != "auto":
            return
        left = float("inf") if self.memory is None else self.memory
        bases = [(stack.names, subspace.basis) for stack, subspace in zip(stacks, found, strict=True)]
        for names, basis in sorted(bases, key=lambda pair: pair[1].nbytes):
            if (left := left - basis.nbytes) < 0:
                break
            self.bases.update(zip(names, basis.chunk(len(names)), strict=True))

    def state_dict(self) -> dict[str, Any]:
        """Of plain values and, under "bases", tensors."""
        return {"waits": {name: list(wait) for name, wait in self.waits.items()}, "bases": dict(self.bases)}

    def _solved(self, stack: Stack, scale: Tensor | None, energy: Tensor, solver: Solver) -> Subspace | None:
        """Find the subspace of a stack, or return None if the solver does not converge."""
        matrices = stack.matrices()
        weight = matrices.to(torch.promote_types(matrices.dtype, torch.float32))
        start = self._start(stack)
        try:
            return leading(weight, stack.rank, row_scale=scale, start=start, solver=solver, energy=energy)
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
            return None

    def _start(self, stack: Stack) -> Tensor | None:
        """The basis for a warm start, if all layers have one and it is worth trying."""
        names = stack.names
        if self.waits.get(names[0], (0, 0))[0] or not all(name in self.bases for name in names):
            return None
        return self.bases[names[0]] if len(names) == 1 else torch.cat([self.bases[name] for name in names])

    def _learn(self, stack: Stack, *, started: bool, warm: bool) -> None:
        """After a warm start that was not good enough, let one projection pass before the next try; then two, four, …"""
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
