"""Nested values in safetensors files: what comes back is what was stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from lrpet.train.tree import load_tree, save_tree

PLAIN = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=5)
NESTED = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.integers() | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(value=NESTED)
def test_plain_values_come_back_with_their_types(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    path = tmp_path_factory.mktemp("tree") / "tree.safetensors"
    save_tree(value, path)
    assert repr(load_tree(path)) == repr(value)


def test_tensors_come_back_to_the_bit_and_shared_ones_are_stored_once(tmp_path: Path) -> None:
    shared = torch.randn(200, 300)
    value: dict[Any, Any] = {
        "a": [shared, shared], 3: (torch.tensor(2.5), torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)),
        "view": shared[:, ::2], "empty": torch.empty(0, 3), "half": torch.randn(3).bfloat16(),
    }  # fmt: skip
    save_tree(value, tmp_path / "tree.safetensors")
    found = load_tree(tmp_path / "tree.safetensors")
    assert found.keys() == value.keys()
    assert found["a"][0] is found["a"][1]
    for name in ("view", "empty", "half"):
        assert found[name].dtype == value[name].dtype
        assert torch.equal(found[name], value[name])
    assert torch.equal(found["a"][0], shared)
    assert all(torch.equal(x, y) for x, y in zip(found[3], value[3], strict=True))
    assert (tmp_path / "tree.safetensors").stat().st_size < 1.6 * shared.nbytes


def test_anything_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="Path cannot be stored"):
        save_tree({"a": [tmp_path]}, tmp_path / "tree.safetensors")
    assert not (tmp_path / "tree.safetensors").exists()


def test_files_of_others_are_refused(tmp_path: Path) -> None:
    save_file({"0": torch.ones(2)}, tmp_path / "other.safetensors")
    with pytest.raises(KeyError):
        load_tree(tmp_path / "other.safetensors")
    save_file({}, tmp_path / "hostile.safetensors", metadata={"tree": '{"call": "os.system"}'})
    with pytest.raises(ValueError, match="holds a call"):
        load_tree(tmp_path / "hostile.safetensors")
