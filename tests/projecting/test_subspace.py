"""The solvers against a float64 singular value decomposition: generic and hard spectra, batches, and warm starts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lrpet.projecting.projection import Transfer
from lrpet.projecting.solvers import Solver, leading


def with_spectrum(rows: int, columns: int, values: Tensor, *, seed: int = 0) -> Tensor:
    """Make a matrix with these singular values and random singular vectors, float64."""
    generator = torch.Generator().manual_seed(seed)
    size = min(rows, columns)
    left = torch.linalg.qr(torch.randn(rows, size, generator=generator, dtype=torch.float64)).Q
    right = torch.linalg.qr(torch.randn(columns, size, generator=generator, dtype=torch.float64)).Q
    product: Tensor = (left * values) @ right.mT
    return product


def best(matrix: Tensor, rank: int, scale: Tensor | None = None) -> Tensor:
    """diag(α)·W·V_r·V_rᵀ in float64, by definition."""
    folded = matrix.double() if scale is None else scale.double()[:, None] * matrix.double()
    left, values, right = torch.linalg.svd(folded, full_matrices=False)
    product: Tensor = (left[:, :rank] * values[:rank]) @ right[:rank]
    return product


def relative(got: Tensor, exact: Tensor) -> float:
    return float((got.double() - exact).norm() / exact.norm())


SHAPES = [(24, 24), (24, 100), (100, 24), (300, 700), (700, 300), (1, 9), (9, 1)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("solver", ["eigh", "svd"])
@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize("keep", ["one", "some", "most", "all but one"])
def test_cold_solvers_are_right(shape: tuple[int, int], solver: Solver, rectified: bool, keep: str) -> None:
    torch.manual_seed(1)
    size = min(shape)
    rank = max(1, {"one": 1, "some": size // 3, "most": 2 * size // 3, "all but one": size - 1}[keep])
    matrix = torch.randn(shape)
    scale = 0.1 + torch.rand(shape[0]) if rectified else None
    found = leading(matrix[None], rank, row_scale=None if scale is None else scale[None], solver=solver)
    projected = found.project(matrix[None])[0]
    got = projected if scale is None else scale[:, None] * projected
    assert relative(got, best(matrix, rank, scale)) < 1e-5
    torch.testing.assert_close(found.basis[0].mT @ found.basis[0], torch.eye(rank), atol=1e-5, rtol=0)
    largest = torch.linalg.svdvals(matrix if scale is None else scale[:, None] * matrix)[0]
    torch.testing.assert_close(found.largest[0], largest, rtol=1e-4, atol=0)


@pytest.mark.parametrize("shape", [(24, 40), (40, 24)])
@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize("rank", [7, 20])
@pytest.mark.parametrize("pruned", [0.0, 0.3])
def test_however_it_is_arranged_the_sum_is_that_of_its_definition(
    shape: tuple[int, int], rectified: bool, rank: int, pruned: float
) -> None:
    """g·P + ρ·(W − P) from the subspace and from its complement, with a tail and without, into the memory of W or not."""
    generator = torch.Generator().manual_seed(1)
    stack = torch.randn(3, *shape, generator=generator, dtype=torch.float64)
    scale = 0.1 + torch.rand(3, shape[0], generator=generator, dtype=torch.float64) if rectified else None
    gain = torch.tensor([1.0, 1.5, 2.0], dtype=torch.float64)
    found = leading(stack, rank, row_scale=scale, solver="eigh")
    assert found.complement == (rank == 20 and not (rectified and found.wide))
    folded = stack if scale is None else scale[..., None] * stack
    best_folded = torch.stack([best(each, rank) for each in folded])
    kept = best_folded if scale is None else best_folded / scale[..., None]
    coordinates = found.coordinates(stack)
    expected = gain[:, None, None] * kept + pruned * (stack - kept)
    for out in (None, stack.clone()):
        transfer = Transfer(*found.transferred(coordinates, kept=gain, pruned=pruned))
        got = transfer.applied(stack if out is None else out, out=out)
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)
    energy = folded.square().sum((-2, -1))
    torch.testing.assert_close(found.kept_energy(coordinates, energy, scale), best_folded.square().sum((-2, -1)))


HARD = {
    "condition 1e8": torch.logspace(0, -8, 40, dtype=torch.float64),
    "condition 1e8, cut at the steepest": torch.cat([torch.logspace(0, -4, 20), torch.logspace(-7, -8, 20)]).double(),
    "two levels": torch.cat([torch.ones(13), torch.full((27,), 1e-3)]).double(),
    "zeros behind the cut": torch.cat([torch.ones(13), torch.zeros(27)]).double(),
    "zeros before the cut": torch.cat([torch.ones(5), torch.zeros(35)]).double(),
    "slow decay": 1 / torch.arange(1, 41, dtype=torch.float64),
}


@pytest.mark.parametrize("shape", [(40, 90), (90, 40)])
@pytest.mark.parametrize("spectrum", HARD)
@pytest.mark.parametrize("solver", ["eigh", "svd"])
@pytest.mark.parametrize("rank", [1, 13, 20, 39])
def test_hard_spectra(shape: tuple[int, int], spectrum: str, solver: Solver, rank: int) -> None:
    matrix = with_spectrum(*shape, HARD[spectrum]).float()
    projected = leading(matrix[None], rank, solver=solver).project(matrix[None])[0]
    exact = best(matrix, rank)
    if spectrum in ("two levels", "zeros before the cut"):  # equal values across the cut: any choice is as good
        assert (matrix.double() - projected).norm() <= (matrix.double() - exact).norm() + 1e-5 * exact.norm()
        assert relative(projected.double().norm(), exact.norm()) < 1e-5
    else:
        assert relative(projected, exact) < 1e-5


@pytest.mark.parametrize("solver", ["eigh", "svd"])
def test_scales_near_zero_negative_and_zero_are_undone(solver: Solver) -> None:
    """Rows keep their part in the subspace of the folded matrix, whatever their scale: nothing is divided by it."""
    torch.manual_seed(2)
    matrix = torch.randn(30, 80)
    scale = torch.randn(30)
    scale[:10] = torch.tensor([0.0, 1e-8, -1e-8, 1e-6, -1e-6, 1e-4, -1e-4, 1e-3, 0.0, -1e-2])
    folded = scale.double()[:, None] * matrix.double()
    right = torch.linalg.svd(folded, full_matrices=False).Vh[:12]
    exact = matrix.double() @ right.mT @ right
    found = leading(matrix[None], 12, row_scale=scale[None], solver=solver).project(matrix[None])[0]
    assert relative(found, exact) < 1e-5
    for row in range(30):
        assert relative(found[row], exact[row]) < 1e-4


@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize("shape", [(24, 24), (24, 100), (100, 24), (300, 320), (320, 300)])
def test_a_batch_is_as_each_alone(shape: tuple[int, int], rectified: bool) -> None:
    torch.manual_seed(3)
    stack = torch.randn(4, *shape)
    scale = 0.1 + torch.rand(4, shape[0]) if rectified else None
    together = leading(stack, 7, row_scale=scale).project(stack)
    for i in range(4):
        alone = leading(stack[i : i + 1], 7, row_scale=None if scale is None else scale[i : i + 1]).project(
            stack[i : i + 1]
        )
        assert relative(together[i], alone[0].double()) < 1e-5


def low_rank_and_moved(shape: tuple[int, int], rank: int, scale: Tensor | None, *, by: float) -> tuple[Tensor, Tensor]:
    """Make a stack of one matrix that was projected and then trained on, and the basis from when it was projected."""
    values = torch.cat([torch.logspace(0, -1, rank), torch.zeros(min(shape) - rank)]).double()
    matrix = with_spectrum(*shape, values, seed=4).float()[None]
    if scale is not None:
        matrix = matrix / scale[..., None]
    basis = leading(matrix, rank, row_scale=scale).basis
    noise = torch.randn(1, *shape, generator=torch.Generator().manual_seed(5))
    return matrix + by * noise / noise.norm() * matrix.norm(), basis


@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize("shape", [(60, 60), (60, 500), (500, 60), (300, 330), (330, 300)])
@pytest.mark.parametrize("by", [1e-4, 1e-2, 0.1, 0.2])
def test_warm_starts_are_right_where_they_say_so(shape: tuple[int, int], rectified: bool, by: float) -> None:
    scale = 0.2 + torch.rand(1, shape[0], generator=torch.Generator().manual_seed(6)) if rectified else None
    matrix, basis = low_rank_and_moved(shape, 20, scale, by=by)
    found = leading(matrix, 20, row_scale=scale, start=basis)
    projected = found.project(matrix)
    got = projected if scale is None else scale[..., None] * projected
    error = relative(got[0], best(matrix[0], 20, None if scale is None else scale[0]))
    if by <= 1e-2:  # a clear gap, and a start near the solution
        assert found.solver == "warm"
    assert error <= 1e-4
    torch.testing.assert_close(found.basis[0].mT @ found.basis[0], torch.eye(20), atol=1e-5, rtol=0)
    again = leading(matrix, 20, row_scale=scale, start=found.basis)
    assert again.solver == "warm"  # from the solution itself


@pytest.mark.parametrize("shape", [(60, 200), (200, 60), (300, 300)])
def test_warm_starts_that_fail_are_solved_again(shape: tuple[int, int]) -> None:
    """No gap, a start that has nothing to do with the matrix, or singular values that float32 cannot tell apart."""
    torch.manual_seed(7)
    size = min(shape)
    noise = torch.randn(1, *shape)
    elsewhere = torch.linalg.qr(torch.randn(1, size, 20)).Q
    left, _, right = torch.linalg.svd(low_rank_and_moved(shape, 20, None, by=0.1)[0], full_matrices=False)
    orthogonal = left[..., -20:] if shape[0] <= shape[1] else right[..., -20:, :].mT
    matrix, _ = low_rank_and_moved(shape, 20, None, by=0.1)
    hopeless = [
        (noise, elsewhere),
        (matrix, orthogonal.contiguous()),
        (torch.zeros(1, *shape), elsewhere),
        (1e30 * noise, elsewhere),
    ]
    for stack, start in hopeless:
        found = leading(stack, 20, start=start)
        assert found.solver == "eigh"
        if stack.any():
            scaled = stack[0].double() / stack.abs().max()
            assert relative(found.project(stack)[0].double() / stack.abs().max(), best(scaled, 20)) < 1e-5


def test_warm_errors_are_never_far_below_the_truth() -> None:
    """Over many spectra and movements: where a warm start is accepted, it is right to 1e-4."""
    accepted = 0
    for seed in range(60):
        generator = torch.Generator().manual_seed(seed)
        rank = int(torch.randint(2, 40, (), generator=generator))
        decay = float(torch.rand((), generator=generator)) * 3
        gap = 10 ** (-2 * float(torch.rand((), generator=generator)))
        tail = 10 ** (-decay) * gap * torch.rand(50 - rank + 10, generator=generator)
        values = torch.cat([torch.logspace(0, -decay, rank), tail.sort(descending=True).values]).double()
        start = with_spectrum(60, 150, values, seed=seed).float()[None]
        basis = leading(start, rank).basis
        moved = (
            start
            + 0.05 * float(torch.rand((), generator=generator)) * torch.randn(1, 60, 150, generator=generator) / 95
        )
        found = leading(moved, rank, start=basis)
        if found.solver == "warm":
            accepted += 1
            assert relative(found.project(moved)[0], best(moved[0], rank)) < 1e-4
    assert accepted > 20


def test_precision_follows_the_spectrum() -> None:
    """A spectrum that float32 would square away is solved in float64: the same matrix in float64 gives the same answer."""
    matrix = with_spectrum(50, 60, torch.logspace(0, -7, 50).double()).float()[None]
    single, double = leading(matrix, 30).project(matrix), leading(matrix.double(), 30).project(matrix.double())
    assert relative(single[0], double[0]) < 1e-6
