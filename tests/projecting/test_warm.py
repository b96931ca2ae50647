"""How subspaces are found from projection to projection: equal layers at once, warm where that is good enough."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import lrpet
from helpers import weight
from lrpet.projecting.solvers import leading


def stacked_network() -> nn.Sequential:
    """Equal layers (solved as one batch), rectified and not, wide and tall."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(3):
        layers += [nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 64, 30), nn.Linear(30, 200), nn.Linear(200, 10))


def trained(model: nn.Sequential, projector: lrpet.Projector | None, *, steps: int = 3, lr: float = 0.02) -> None:
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    for _ in range(steps):
        x = torch.randn(16, 8, 8, 8, generator=generator)
        torch.autograd.backward(F.cross_entropy(model(x), torch.arange(16) % 10))
        optimizer.step()
        optimizer.zero_grad()
        if projector is not None:
            projector.step()


def test_solvers_agree_over_a_training() -> None:
    """Warm starts, fresh Gram matrices and full singular value decompositions leave the same weights."""
    models = {}
    for solver in ("auto", "eigh", "svd"):
        model = stacked_network()
        plan = lrpet.plan(model, torch.zeros(1, 8, 8, 8), keep=0.34)
        projector = lrpet.Projector(model, plan, start=0, every=2, solver=solver)
        trained(model, projector, steps=8)
        models[solver] = model
        assert (projector.basis_bytes > 0) == (solver == "auto")
    for name in plan.ranks:
        exact = weight(models["svd"], name)
        assert (weight(models["eigh"], name) - exact).norm() < 1e-4 * exact.norm()
        assert (weight(models["auto"], name) - exact).norm() < 1e-3 * exact.norm()


def test_warm_starts_are_taken_and_far_ones_solved_again() -> None:
    model = stacked_network()
    plan = lrpet.plan(model, torch.zeros(1, 8, 8, 8), keep=0.34)
    projector = lrpet.Projector(model, plan, start=0, every=1)
    projector.project()
    trained(model, None, lr=1e-3)
    projector.project()
    assert projector.solved_again == 0
    with torch.no_grad():
        for name in plan.ranks:
            weight(model, name).normal_()
    report = projector.project()
    assert projector.solved_again > 0
    for name, rank in plan.ranks.items():
        assert torch.linalg.matrix_rank(weight(model, name), rtol=1e-4) == rank
        assert report.layers[name].energy_after == pytest.approx(report.layers[name].energy, rel=1e-5)


def test_basis_memory_is_a_limit() -> None:
    model = stacked_network()
    plan = lrpet.plan(model, torch.zeros(1, 8, 8, 8), keep=0.34)
    unlimited = lrpet.Projector(model, plan, start=0, every=1)
    unlimited.project()
    for limit in (0, 400, unlimited.basis_bytes - 1, unlimited.basis_bytes):
        projector = lrpet.Projector(model, plan, start=0, every=1, basis_memory=limit)
        projector.project()
        assert projector.basis_bytes <= limit
        assert (projector.basis_bytes == unlimited.basis_bytes) == (limit == unlimited.basis_bytes)
        projector.project()  # some layers warm, some not


def test_resuming_without_bases_is_right() -> None:
    model = stacked_network()
    plan = lrpet.plan(model, torch.zeros(1, 8, 8, 8), keep=0.34)
    projector = lrpet.Projector(model, plan, start=0, every=1)
    projector.project()
    trained(model, None)
    state = projector.state_dict()
    without = {key: value for key, value in state.items() if key != "bases"}
    results = []
    for each in (state, without):
        copied = copy.deepcopy(model)
        resumed = lrpet.Projector(copied, plan, start=0, every=1)
        resumed.load_state_dict(each)
        assert (resumed.basis_bytes > 0) == ("bases" in each)
        resumed.project()
        results.append(copied)
    for name in plan.ranks:
        exact = weight(results[1], name)
        assert (weight(results[0], name) - exact).norm() < 1e-4 * exact.norm()


def test_a_basis_of_another_network_is_refused() -> None:
    model = stacked_network()
    plan = lrpet.plan(model, torch.zeros(1, 8, 8, 8), keep=0.34)
    projector = lrpet.Projector(model, plan, start=0, every=1)
    with pytest.raises(ValueError, match="basis for '0'"):
        projector.load_state_dict({**projector.state_dict(), "bases": {"0": torch.zeros(3, 3)}})


def test_nothing_changes_if_no_solver_converges(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last stack fails: the ones solved before it must not have been written."""
    model = stacked_network()
    plan = lrpet.plan(model, torch.zeros(1, 8, 8, 8), keep=0.34)
    projector = lrpet.Projector(model, plan, start=0, every=1)
    before = copy.deepcopy(model.state_dict())
    last = projector._in_force.stacks()[-1]
    solve = leading

    def failing(stack: Tensor, rank: int, **options: Any) -> Any:
        if stack.shape == last.gather({}).matrices.shape:
            raise torch.linalg.LinAlgError  # type: ignore[attr-defined]
        return solve(stack, rank, **options)

    monkeypatch.setattr("lrpet.projecting.warm.leading", failing)
    with pytest.raises(ValueError, match=r"no solver converged for " + last.names[0]):
        projector.project()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_where_one_solver_fails_the_next_one_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Gram matrix's eigenvectors do not converge: the weights are those of the singular value decomposition."""
    models = [stacked_network(), stacked_network()]
    plan = lrpet.plan(models[0], torch.zeros(1, 8, 8, 8), keep=0.34)
    lrpet.Projector(models[0], plan, start=0, every=1, solver="svd").project()
    solve = leading

    def failing(stack: Tensor, rank: int, **options: Any) -> Any:
        if options["solver"] != "svd":
            raise torch.linalg.LinAlgError  # type: ignore[attr-defined]
        return solve(stack, rank, **options)

    monkeypatch.setattr("lrpet.projecting.warm.leading", failing)
    lrpet.Projector(models[1], plan, start=0, every=1).project()
    for name in plan.ranks:
        assert torch.equal(weight(models[0], name), weight(models[1], name))


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_fast_float32_products_do_not_reach_the_projection(precision: str) -> None:
    """What a loop allows its own products (TF32, bfloat16) would cost a projection three digits."""
    models = [stacked_network(), stacked_network()]
    plan = lrpet.plan(models[0], torch.zeros(1, 8, 8, 8), keep=0.34)
    lrpet.Projector(models[0], plan, start=0, every=1).project()
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(precision)
        lrpet.Projector(models[1], plan, start=0, every=1).project()
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)
    for name in plan.ranks:
        assert torch.equal(weight(models[0], name), weight(models[1], name))


@pytest.mark.parametrize(
    ("options", "message"), [({"solver": "qr"}, "solver='qr'"), ({"basis_memory": -1}, "basis_memory=-1")]
)
def test_bad_solver_options_are_refused(options: dict[str, Any], message: str) -> None:
    model = stacked_network()
    plan = lrpet.plan(model, torch.zeros(1, 8, 8, 8), keep=0.34)
    with pytest.raises(ValueError, match=message):
        lrpet.Projector(model, plan, start=0, every=1, **options)


def test_failing_warm_starts_are_tried_ever_less_often() -> None:
    """Weights that have nothing to do with the last ones, again and again: the attempts die out, and come back with success."""
    model = stacked_network()
    plan = lrpet.plan(model, torch.zeros(1, 8, 8, 8), keep=0.34)
    projector = lrpet.Projector(model, plan, start=0, every=1)
    failures = []
    for _ in range(12):
        with torch.no_grad():
            for name in plan.ranks:
                weight(model, name).normal_()
        before = projector.solved_again
        projector.project()
        failures.append(projector.solved_again > before)
    assert failures == [False, True, False, True, False, False, True, False, False, False, False, True]
    resumed = lrpet.Projector(model, plan, start=0, every=1)
    resumed.load_state_dict(projector.state_dict())
    assert resumed.state_dict()["waits"] == projector.state_dict()["waits"] != {}
    for _ in range(20):
        projector.project()  # the weights stay where they are
    assert projector.state_dict()["waits"] == {}
