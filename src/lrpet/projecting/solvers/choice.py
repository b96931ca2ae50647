"""Which solver finds a subspace."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from lrpet.projecting.matrices import energies, full_precision
from lrpet.projecting.solvers.gram import from_gram
from lrpet.projecting.solvers.power import WARM_TOLERANCE, GramOperator, from_basis
from lrpet.projecting.solvers.svd import from_svd
from lrpet.projecting.subspace import Subspace

Solver = Literal["auto", "eigh", "svd"]


def leading(
    weight: Tensor,
    rank: int,
    *,
    row_scale: Tensor | None = None,
    start: Tensor | None = None,
    solver: Solver = "auto",
    energy: Tensor | None = None,
) -> Subspace:
    """Find the subspace of the `rank` largest singular values of diag(row_scale)·weight.

    Args:
        weight: W, shape (batch, rows, columns), float32 or float64, finite.
        rank: From 1 to s.
        row_scale: α, shape (batch, rows).
        start: A basis from an earlier call, shape (batch, s, rank). Without one there is no warm start.
        solver: "auto" starts warm where there is a `start`, and takes "eigh" where there is none or it was not good enough.
            On a GPU nothing looks whether it was, because the host would have to wait. There, ask again with "eigh" if
            `error` is above `WARM_TOLERANCE`.
        energy: ‖diag(row_scale)·weight‖²_F, shape (batch,), if it is known.

    Raises:
        torch.linalg.LinAlgError: A decomposition did not converge: take another solver.
    """
    with full_precision(weight.device):
        if solver == "svd":
            return from_svd(weight, rank, row_scale)
        if solver != "auto" or start is None:
            return from_gram(weight, rank, row_scale)
        gram = GramOperator(weight, row_scale, rank)
        energy = energies(weight, row_scale) if energy is None else energy
        found = from_basis(weight, row_scale, start, gram, energy)
        if weight.is_cuda or bool((found.error <= WARM_TOLERANCE).all()):
            return found
        return from_gram(weight, rank, row_scale, gram=gram.formed)
