"""The projection against the slow reference, and its properties."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import reference
from lrpet.projecting.projection import DEAD_BELOW, project, transfer_gain

quick = settings(max_examples=60, deadline=None, derandomize=True)


@dataclass(frozen=True)
class Case:
    """A matrix in float64, a rank for it, and a batch norm's row scale with at least `rank` live rows."""

    matrix: Tensor
    rank: int
    alpha: Tensor
    tail_scale: float

    def margin(self, matrix: Tensor) -> float:
        """σ₁² / (σ_r² − σ_{r+1}²): by how much rounding is multiplied in the leading subspace of `matrix`."""
        values = reference.singular_values(matrix).square()
        following = values[self.rank] if self.rank < len(values) else 0.0
        return float(values[0] / (values[self.rank - 1] - following))


def spectrum(kind: str, size: int) -> Tensor:
    """Singular values like those of trained layers: slowly or fast decaying, or with a gap as projection leaves them."""
    index = torch.arange(size, dtype=torch.float64)
    if kind == "power":
        return (1 + index) ** -0.7
    if kind == "exponential":
        return torch.exp(-4 * index / size)
    return torch.where(index < max(1, size // 3), 1 - 0.5 * index / size, 0.02 / (1 + index))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    rows, columns = draw(st.integers(1, 32)), draw(st.integers(1, 48))
    size = min(rows, columns)
    rank = draw(st.one_of(st.integers(1, size), st.sampled_from([1, max(1, size - 1), size])))
    kind = draw(st.sampled_from(["noise", "power", "exponential", "gap"]))
    scale = 10.0 ** draw(st.integers(-1, 3))
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=random)

    matrix = normal(rows, columns)
    if kind != "noise":
        left, _ = torch.linalg.qr(normal(rows, size))
        right, _ = torch.linalg.qr(normal(columns, size))
        matrix = left * spectrum(kind, size) @ right.T
    alpha = torch.sign(normal(rows)) * torch.exp(0.7 * normal(rows))
    quiet = torch.randperm(rows, generator=random)[: draw(st.integers(0, rows - rank))]
    alpha[quiet] = torch.tensor(draw(st.sampled_from([0.0, 1e-6, -1e-6])), dtype=torch.float64)
    return Case(scale * matrix, rank, alpha, draw(st.sampled_from([0.0, 0.1, 0.5, 1.0])))


def relative(got: Tensor, expected: Tensor) -> float:
    return float((got.double() - expected).norm() / expected.norm())


@quick
@given(cases(), st.booleans())
def test_it_is_the_reference_in_float64(case: Case, energy_transfer: bool) -> None:
    tolerance = 1e-13 * (1 + case.margin(case.matrix))
    got = project(case.matrix, case.rank, energy_transfer=energy_transfer, tail_scale=case.tail_scale).matrix
    expected = reference.project(case.matrix, case.rank, energy_transfer=energy_transfer, tail_scale=case.tail_scale)
    assert relative(got, expected) < tolerance


@quick
@given(cases(), st.booleans())
def test_it_is_the_reference_in_float64_when_rectified(case: Case, energy_transfer: bool) -> None:
    tolerance = 1e-13 * (1 + case.margin(case.alpha[:, None] * case.matrix))
    options = {"energy_transfer": energy_transfer, "tail_scale": case.tail_scale}
    got = project(case.matrix, case.rank, row_scale=case.alpha, **options).matrix  # type: ignore[arg-type]
    expected = reference.rectified(case.matrix, case.rank, case.alpha, **options)  # type: ignore[arg-type]
    assert relative(got, expected) < tolerance


@quick
@given(cases(), st.booleans())
def test_it_is_the_reference_in_float32(case: Case, rectify: bool) -> None:
    single = case.matrix.float()
    alpha = case.alpha.float() if rectify else None
    folded = single.double() if alpha is None else alpha.double()[:, None] * single.double()
    tolerance = 1e-5 + 3e-6 * case.margin(folded)
    got = project(single, case.rank, row_scale=alpha, tail_scale=case.tail_scale).matrix
    expected = (
        reference.project(single, case.rank, tail_scale=case.tail_scale)
        if alpha is None
        else reference.rectified(single, case.rank, alpha, tail_scale=case.tail_scale)
    )
    assert got.dtype == torch.float32
    assert relative(got, expected) < tolerance


@quick
@given(cases())
def test_rectification_is_the_papers_up_to_its_damping(case: Case) -> None:
    """Row by row the paper's result is ours times α²/(α² + 1e-5)."""
    tolerance = 1e-12 * (1 + case.margin(case.alpha[:, None] * case.matrix))
    got = project(case.matrix, case.rank, row_scale=case.alpha, tail_scale=case.tail_scale).matrix
    paper = reference.rectified_damped(case.matrix, case.rank, case.alpha, tail_scale=case.tail_scale)
    squared = case.alpha.square()
    assert (got * (squared / (squared + reference.DAMPING))[:, None] - paper).norm() < tolerance * got.norm()
    loud = squared > 0.1
    assert (got - paper)[loud].norm() <= (1.01e-4 + tolerance) * got[loud].norm() + tolerance * got.norm()


@quick
@given(cases(), st.booleans(), st.sampled_from([(torch.float32, 2e-6), (torch.float64, 1e-12)]))
def test_energy_is_conserved(case: Case, rectify: bool, precision: tuple[torch.dtype, float]) -> None:
    """In float32 the norm to 1e-6, so the energy to 2e-6."""
    dtype, tolerance = precision
    matrix, alpha = case.matrix.to(dtype), case.alpha.to(dtype) if rectify else None
    fold = alpha.double()[:, None] if alpha is not None else 1.0
    result = project(matrix, case.rank, row_scale=alpha, tail_scale=case.tail_scale)
    before = reference.energy(fold * matrix.double())
    assert reference.energy(fold * result.matrix.double()) == pytest.approx(before, rel=tolerance)
    assert result.energy.item() == pytest.approx(before, rel=tolerance)
    assert result.energy_after.item() == pytest.approx(before, rel=tolerance)


@quick
@given(cases(), st.booleans())
def test_without_transfer_the_pruned_energy_is_lost(case: Case, rectify: bool) -> None:
    alpha = case.alpha if rectify else None
    folded = case.matrix if alpha is None else alpha[:, None] * case.matrix
    values = reference.singular_values(folded).square()
    kept, tail = values[: case.rank].sum().item(), values[case.rank :].sum().item()
    result = project(case.matrix, case.rank, row_scale=alpha, energy_transfer=False, tail_scale=case.tail_scale)
    after = kept + case.tail_scale**2 * tail
    new = result.matrix if alpha is None else alpha[:, None] * result.matrix
    assert result.kept.item() == pytest.approx(kept, rel=1e-9)
    assert result.energy_after.item() == pytest.approx(after, rel=1e-9)
    assert reference.energy(new) == pytest.approx(after, rel=1e-9)


@quick
@given(cases(), st.booleans(), st.sampled_from([(torch.float32, 1e-5), (torch.float64, 1e-12)]))
def test_the_rank_is_exact(case: Case, rectify: bool, precision: tuple[torch.dtype, float]) -> None:
    dtype, tiny = precision
    alpha = case.alpha.to(dtype) if rectify else None
    values = reference.singular_values(project(case.matrix.to(dtype), case.rank, row_scale=alpha).matrix)
    assert (values[case.rank :] < tiny * values[0]).all()
    if alpha is None:
        assert values[case.rank - 1] > 1e-4 * values[0]


@quick
@given(cases(), st.booleans(), st.booleans(), st.sampled_from([torch.float32, torch.float64]))
def test_projecting_twice_changes_nothing(case: Case, rectify: bool, energy_transfer: bool, dtype: torch.dtype) -> None:
    alpha = case.alpha.to(dtype) if rectify else None
    once = project(case.matrix.to(dtype), case.rank, row_scale=alpha, energy_transfer=energy_transfer).matrix
    twice = project(once, case.rank, row_scale=alpha, energy_transfer=energy_transfer)
    assert relative(twice.matrix, once.double()) < 1e-5
    assert twice.kept.item() == pytest.approx(twice.energy.item(), rel=1e-5)


@quick
@given(cases(), st.booleans())
def test_at_full_rank_or_with_an_unscaled_tail_nothing_changes(case: Case, rectify: bool) -> None:
    alpha = torch.where(case.alpha.abs() > 1e-5, case.alpha, 1.0) if rectify else None
    full = project(case.matrix, min(case.matrix.shape), row_scale=alpha)
    unscaled = project(case.matrix, case.rank, row_scale=alpha, tail_scale=1.0)
    for result in (full, unscaled):
        assert relative(result.matrix, case.matrix) < 1e-12


def test_a_realistic_layer_is_the_reference_in_float32() -> None:
    """A ResNet layer's shape, after a projection and some training: at 1e-5, as it will be called."""
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(128, 1152, generator=random) * (2 / 1152) ** 0.5
    alpha = torch.exp(0.5 * torch.randn(128, generator=random))
    trained = project(weight, 48, row_scale=alpha).matrix + 0.02 * weight
    result = project(trained, 48, row_scale=alpha)
    assert relative(result.matrix, reference.rectified(trained, 48, alpha)) < 1e-5
    folded = alpha.double()[:, None] * trained.double()
    assert reference.energy(alpha.double()[:, None] * result.matrix.double()) == pytest.approx(
        reference.energy(folded), rel=1e-6
    )
    tail = reference.singular_values(folded)[48:].square().sum().item()
    assert (result.energy - result.kept).item() == pytest.approx(tail, rel=1e-2)


@pytest.mark.parametrize("gamma", [0.0, 1e-6, -1e-6])
def test_fewer_live_rows_than_the_rank(gamma: float) -> None:
    """The folded matrix then has less than full rank by itself: the live rows stay as they are, all stays finite."""
    random = torch.Generator().manual_seed(0)
    matrix = torch.randn(10, 20, generator=random, dtype=torch.float64)
    alpha = torch.full((10,), gamma, dtype=torch.float64)
    alpha[:3] = torch.tensor([1.0, -2.0, 0.5])
    new = project(matrix, 5, row_scale=alpha).matrix
    assert new.isfinite().all()
    assert relative(new[:3], matrix[:3]) < 1e-8
    assert (reference.singular_values(new)[5:] < 1e-10).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dead_matrices_are_left_alone_and_flagged(dtype: torch.dtype) -> None:
    zero = torch.zeros(6, 9, dtype=dtype)
    result = project(zero, 2)
    assert result.dead
    assert result.matrix.dtype == dtype
    assert torch.equal(result.matrix, zero)
    assert result.energy_after == result.energy == 0

    matrix = torch.randn(6, 9, generator=torch.Generator().manual_seed(0)).to(dtype)
    muted = project(matrix, 2, row_scale=torch.zeros(6))
    assert muted.dead
    assert torch.equal(muted.matrix, matrix)
    assert not project(matrix, 2).dead


def test_dead_begins_below_its_threshold() -> None:
    assert DEAD_BELOW == 1e-4  # the paper's
    direction = torch.zeros(4, 5)
    direction[1, 2] = 1
    assert project(0.99 * DEAD_BELOW * direction, 1).dead
    assert not project(1.01 * DEAD_BELOW * direction, 1).dead


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    random = torch.Generator().manual_seed(0)
    matrix = torch.randn(24, 40, generator=random).to(dtype)
    alpha = torch.rand(24, generator=random).to(dtype) + 0.5
    for row_scale in (None, alpha):
        got = project(matrix, 6, row_scale=row_scale)
        wide = project(matrix.float(), 6, row_scale=None if row_scale is None else row_scale.float())
        assert got.matrix.dtype == dtype
        assert torch.equal(got.matrix, wide.matrix.to(dtype))
        assert got.energy.dtype == torch.float32


def test_autocast_does_not_reach_it() -> None:
    matrix = torch.randn(24, 40, generator=torch.Generator().manual_seed(0))
    expected = project(matrix, 6).matrix
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = project(matrix, 6).matrix
    assert torch.equal(got, expected)


def test_no_gradient_flows_and_the_arguments_stay() -> None:
    matrix = torch.randn(8, 12, generator=torch.Generator().manual_seed(0)).requires_grad_()
    alpha = torch.rand(8, generator=torch.Generator().manual_seed(1)).requires_grad_()
    before = matrix.detach().clone(), alpha.detach().clone()
    result = project(matrix, 3, row_scale=alpha, tail_scale=0.1)
    assert not any(tensor.requires_grad for tensor in result)
    assert torch.equal(matrix, before[0])
    assert torch.equal(alpha, before[1])
    assert result.matrix.data_ptr() != matrix.data_ptr()


@pytest.mark.parametrize("shape", [(8, 8), (8, 20), (20, 8)])
@pytest.mark.parametrize("rank", [1, 3, 7])
def test_equal_singular_values_across_the_cut(shape: tuple[int, int], rank: int) -> None:
    """Which of them are kept is open; how many, and the energy, is not."""
    tall, _ = torch.linalg.qr(torch.randn(max(shape), 8, generator=torch.Generator().manual_seed(0)).double())
    matrix = 2 * (tall if shape[0] >= shape[1] else tall.T)
    plain = reference.singular_values(project(matrix, rank, energy_transfer=False).matrix)
    transferred = reference.singular_values(project(matrix, rank).matrix)
    assert torch.allclose(plain[:rank], torch.full((rank,), 2.0, dtype=torch.float64))
    assert torch.allclose(transferred[:rank], torch.full((rank,), 2 * math.sqrt(8 / rank), dtype=torch.float64))
    assert (plain[rank:] < 1e-12).all()
    assert (transferred[rank:] < 1e-12).all()


def test_a_tie_below_larger_singular_values() -> None:
    matrix = torch.diag(torch.tensor([3.0, 2.0, 2.0, 2.0, 1.0], dtype=torch.float64))
    values = reference.singular_values(project(matrix, 2, energy_transfer=False).matrix)
    assert torch.allclose(values, torch.tensor([3.0, 2.0, 0.0, 0.0, 0.0], dtype=torch.float64), atol=1e-12)


def test_transfer_gain_by_hand() -> None:
    """σ = (2, 1, 1): E = 6, E_r = 4 at rank 1; g = √(6/4), and with ρ = ½ √((6 − ¼·2)/4)."""
    energy, kept = torch.tensor(6.0), torch.tensor(4.0)
    assert transfer_gain(energy, kept).item() == pytest.approx(math.sqrt(1.5))
    assert transfer_gain(energy, kept, tail_scale=0.5).item() == pytest.approx(math.sqrt(5.5 / 4))
    new = project(torch.diag(torch.tensor([2.0, 1.0, 1.0])), 1, tail_scale=0.5).matrix
    assert torch.allclose(new, torch.diag(torch.tensor([math.sqrt(5.5), 0.5, 0.5])), atol=1e-6)
