"""Extremes of numbers: plans, projections and factors are right beside float64, or one error leaves the weights alone."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import lrpet
from benchmarks.faults.forks import Limits, spread
from benchmarks.faults.verdicts import Verdict, summed
from lrpet.cli.failures import on_purpose
from lrpet.projecting.projection import DEAD_BELOW

#: {dtype: the largest error, as a fraction of the largest entry}.
RIGHT = {torch.float32: 1e-4, torch.float64: 1e-5, torch.float16: 1e-2, torch.bfloat16: 6e-2}
#: What weights are multiplied by; their singular values are then 1, 1/2, 1/4, … of this.
SCALES = (
    0.0, 1e-308, 1e-45, 1e-38, 1e-30, 1e-20, 1e-10, 1e-5, 2e-4, 1.0, 1e4, 6e4, 1e10, 1e18, 1e19, 1e25, 1e30, 1e38, 3e38,
    1e150, 1e300,
)  # fmt: skip
SPOTS = (float("nan"), float("inf"), -float("inf"), 1e38, 6e4, 1e-45)
RANK = 3


@dataclass(frozen=True)
class Case:
    """Weights of a dtype, as one number makes them extreme, and what is done to them."""

    dtype: torch.dtype
    number: float
    spot: bool
    """Whether the number stands in one place of every weight, rather than scaling all of them."""
    operation: str

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{self.operation}, {dtype}, {'one entry of' if self.spot else 'times'} {self.number:g}"


class WrongError(Exception):
    """What came out is not right."""


def loop(limits: Limits) -> dict[str, Any]:
    """Do everything to all weights; with a count, to so many of them, evenly chosen."""
    numbers = [(number, False) for number in SCALES] + [(number, True) for number in SPOTS]
    cases = [
        Case(dtype, number, spot, operation)
        for dtype, (number, spot), operation in itertools.product(RIGHT, numbers, OPERATIONS)
        if spot or number <= torch.finfo(dtype).max
    ]
    if limits.count is not None:
        cases = [cases[i * len(cases) // limits.count] for i in range(min(limits.count, len(cases)))]
    verdicts = spread(cases, lambda case, number: _judged(case).plain(), limits)
    return summed(verdicts, planned=len(cases))


def _judged(case: Case) -> Verdict:
    network = _network(case)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    wrong, note = [], "right"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            OPERATIONS[case.operation](network, case)
        except WrongError as error:
            wrong.append(str(error))
        except ValueError as error:
            note = "refused"
            if not on_purpose(error):
                wrong.append(f"an error of somebody else's: {type(error).__name__}: {error}")
            if not all(_equal(value, before[name]) for name, value in network.state_dict().items()):
                wrong.append("an error, and weights that are not what they were")
        except Exception as error:
            wrong.append(f"no error for its user: {type(error).__name__}: {str(error)[:300]}")
    return Verdict(str(case), wrong, 1, [] if wrong else [note])


def _network(case: Case) -> nn.Sequential:
    """Make two linears and a convolution, with singular values that halve from one to the next."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 12, 3, bias=False), nn.Flatten(), nn.Linear(48, 16), nn.Linear(16, 12))
    for layer in network:
        if (weight := getattr(layer, "weight", None)) is not None:
            matrix = _halving(weight.flatten(1).shape).view_as(weight)
            scaled = matrix if case.spot else matrix * case.number
            weight.data = scaled.clamp(-_top(case), _top(case))
            if case.spot:
                weight.data.view(-1)[5] = case.number
    return network.to(case.dtype)


def _top(case: Case) -> float:
    return float(torch.finfo(case.dtype).max)


def _halving(shape: torch.Size) -> Tensor:
    """Return a matrix in float64 whose largest entry is 1 and whose singular values halve."""
    random = torch.Generator().manual_seed(sum(shape))
    few = min(shape)
    left, right = (torch.linalg.qr(torch.randn(side, few, generator=random, dtype=torch.float64)).Q for side in shape)
    matrix: Tensor = left * 0.5 ** torch.arange(few, dtype=torch.float64) @ right.T
    return matrix / matrix.abs().max()


def _plan(network: nn.Sequential, case: Case, **budget: Any) -> lrpet.Plan:
    example = torch.zeros(1, 3, 4, 4, dtype=case.dtype)
    return lrpet.plan(network, example, **(budget or {"ranks": dict.fromkeys(("0", "2", "3"), RANK)}))


def _planned(network: nn.Sequential, case: Case) -> None:
    plan = _plan(network, case, macs=0.5, allocate="energy", multiple_of=1)
    if plan.macs > 0.5 * plan.macs_dense:
        raise WrongError(f"a plan of {plan.macs} multiply-adds of {plan.macs_dense}, over its budget")


def _projected(network: nn.Sequential, case: Case, *, energy_transfer: bool) -> None:
    before = {name: _matrix(network, name) for name in ("0", "2", "3")}
    lrpet.Projector(network, _plan(network, case), start=0, every=1, energy_transfer=energy_transfer).project()
    for name, matrix in before.items():
        _compare(name, _matrix(network, name), _reference(matrix, energy_transfer=energy_transfer, dead=True), case)


def _factorised(network: nn.Sequential, case: Case) -> None:
    before = {name: _matrix(network, name) for name in ("0", "2", "3")}
    compact = lrpet.factorize(network, _plan(network, case))
    for name, matrix in before.items():
        first, second = (_matrix(compact, f"{name}.{i}") for i in range(2))
        largest = second.abs().max().clamp(min=1e-300)  # the product may be beyond float64 otherwise
        _compare(
            name, (second / largest) @ first * largest, _reference(matrix, energy_transfer=False, dead=False), case
        )


def _matrix(network: nn.Module, name: str) -> Tensor:
    weight = network.get_submodule(name).weight
    assert isinstance(weight, Tensor)
    return weight.detach().double().flatten(1).clone()


def _reference(matrix: Tensor, *, energy_transfer: bool, dead: bool) -> Tensor:
    """Compute the projection in float64, of the matrix divided by its largest entry; a dead matrix stays as it is."""
    largest = matrix.abs().max()
    if largest == 0:
        return matrix
    left, values, right = torch.linalg.svd(matrix / largest, full_matrices=False)
    if dead and values[0] * largest < DEAD_BELOW:
        return matrix
    gain = (values.square().sum() / values[:RANK].square().sum()).sqrt() if energy_transfer else 1.0
    projected: Tensor = left[:, :RANK] * (gain * values[:RANK]) @ right[:RANK]
    return projected * largest


def _compare(name: str, found: Tensor, expected: Tensor, case: Case) -> None:
    """Raise WrongError unless two matrices agree, as far as the dtype can hold what is expected."""
    top, least = _top(case), float(torch.finfo(case.dtype).smallest_normal)
    largest = max(expected.abs().max().item(), least)
    if not found.isfinite().all():
        raise WrongError(f"layer {name}: NaN or Inf, where {largest:.3g} is the largest entry that is expected")
    error = ((found - expected.clamp(-top, top)).abs().max() / largest).item()
    if error > RIGHT[case.dtype]:
        raise WrongError(f"layer {name}: an error of {error:.2g} of the largest entry, {largest:.3g}")


def _equal(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.nan_to_num(1.5), other.nan_to_num(1.5)) and torch.equal(one.isnan(), other.isnan())


OPERATIONS: dict[str, Callable[[nn.Sequential, Case], None]] = {
    "plan": _planned,
    "project": partial(_projected, energy_transfer=False),
    "project with energy transfer": partial(_projected, energy_transfer=True),
    "factorize": _factorised,
}
