"""Example inputs: how each form is spread as arguments, and what is seen of the tensors in them."""

from __future__ import annotations

from collections import UserDict
from typing import Any

import pytest
import torch

from lrpet.layers.inputs import Inputs

A, B = torch.tensor([1.0, 2.0]), torch.tensor([3])


@pytest.mark.parametrize(
    ("given", "args", "kwargs"),
    [
        (A, (A,), {}),
        ((A, B), (A, B), {}),
        ([A, B], ([A, B],), {}),  # a list is one argument
        ({"a": A}, (), {"a": A}),
        (UserDict(a=A), (), {"a": A}),  # what tokenizers give
    ],
)
def test_forms_of_inputs(given: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    def forward(*got: Any, **named: Any) -> tuple[Any, Any]:
        return got, named

    got, named = Inputs.of(given).run(forward)
    assert len(got) == len(args)
    assert all(mine is theirs or mine == theirs for mine, theirs in zip(got, args, strict=True))
    assert named == kwargs
    assert Inputs.of(inputs := Inputs.of(given)) is inputs


def test_tensors_are_found_and_changed_wherever_they_are() -> None:
    inputs = Inputs.of({"a": [A, {"b": B}], "flag": True})
    assert inputs.tensors[0] is A
    assert inputs.tensors[1] is B
    assert inputs.device == A.device
    doubled = inputs.map(lambda tensor: 2 * tensor)
    assert [tensor.tolist() for tensor in doubled.tensors] == [[2.0, 4.0], [6]]
    assert doubled.kwargs["flag"] is True
    assert [tensor.tolist() for tensor in inputs.tensors] == [[1.0, 2.0], [3]]
    assert Inputs.of(3).device == torch.device("cpu")
