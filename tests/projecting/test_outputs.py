"""The projection in the metric of the outputs, against the slow reference and by its properties."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import reference
from lrpet.projecting import outputs
from lrpet.projecting.outputs import output_energies, project_outputs
from lrpet.projecting.projection import project


def correlated(rows: int, columns: int, *, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Return a weight, inputs of very unequal variances that are correlated, and α of both signs."""
    random = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=random, dtype=torch.float64)
    mixing = torch.randn(columns, columns, generator=random, dtype=torch.float64) * 2.0 ** -torch.arange(columns)
    inputs = torch.randn(500, columns, generator=random, dtype=torch.float64) @ mixing.mT + 0.3
    alpha = torch.randn(rows, generator=random, dtype=torch.float64)
    return weight, inputs, alpha + 0.2 * alpha.sign()


def moment_of(weight: Tensor, inputs: Tensor) -> Tensor:
    given = inputs @ weight.mT
    return given.mT @ given / len(inputs)


@pytest.mark.parametrize(("rows", "columns"), [(6, 10), (10, 6), (7, 7)])
@pytest.mark.parametrize("energy_transfer", [True, False])
def test_as_the_reference(rows: int, columns: int, energy_transfer: bool) -> None:
    weight, inputs, alpha = correlated(rows, columns)
    found = project_outputs(
        weight[None], moment_of(weight, inputs)[None], 3, row_scale=alpha[None], energy_transfer=energy_transfer
    )
    expected = reference.project_outputs(weight, inputs, 3, alpha, white=outputs.WHITE, energy_transfer=energy_transfer)
    torch.testing.assert_close(found.matrix[0], expected, rtol=1e-6, atol=1e-8)
    assert torch.linalg.matrix_rank(found.matrix[0]) == 3
    energies = output_energies(weight[None], moment_of(weight, inputs)[None], alpha[None])
    assert energies.shape == (1, min(rows, columns))
    torch.testing.assert_close(energies.sum(), found.energy[0])
    torch.testing.assert_close(energies[0, :3].sum(), found.kept[0])


@pytest.mark.parametrize(("rows", "columns"), [(6, 10), (10, 6)])
def test_outputs_differ_less_than_with_the_weights_metric(rows: int, columns: int) -> None:
    weight, inputs, alpha = correlated(rows, columns, seed=1)
    options = {"row_scale": alpha[None], "energy_transfer": False}
    by_outputs = project_outputs(weight[None], moment_of(weight, inputs)[None], 2, **options).matrix[0]  # type: ignore[arg-type]
    by_weights = project(weight[None], 2, **options).matrix[0]  # type: ignore[arg-type]

    def error(matrix: Tensor) -> float:
        return float((alpha * (inputs @ (weight - matrix).mT)).square().mean())

    assert error(by_outputs) < 0.5 * error(by_weights)


def test_white_inputs_give_the_projection_of_the_weight() -> None:
    weight, _, alpha = correlated(6, 10)
    found = project_outputs(weight[None], (weight @ weight.mT)[None], 3, row_scale=alpha[None])
    expected = project(weight[None], 3, row_scale=alpha[None])
    torch.testing.assert_close(found.matrix, expected.matrix)
    torch.testing.assert_close(found.kept / found.energy, expected.kept / expected.energy)


def test_the_power_of_the_outputs_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "WHITE", 0.0)
    weight, inputs, _ = correlated(6, 10)
    moment = moment_of(weight, inputs)
    found = project_outputs(weight[None], moment[None], 2).matrix[0]
    torch.testing.assert_close(moment_of(found, inputs).trace(), moment.trace())
    again = project_outputs(found[None], moment_of(found, inputs)[None], 2).matrix[0]
    torch.testing.assert_close(again, found)


def test_a_channel_that_batch_norm_turns_off_and_a_layer_without_outputs() -> None:
    weight, inputs, alpha = correlated(6, 10)
    alpha[2] = 0.0
    found = project_outputs(weight[None], moment_of(weight, inputs)[None], 3, row_scale=alpha[None]).matrix[0]
    assert found.isfinite().all()
    assert not found[2].any()
    nothing = project_outputs(weight[None], torch.zeros(1, 6, 6, dtype=torch.float64), 3)
    assert bool(nothing.dead)
    assert torch.equal(nothing.matrix[0], weight)
