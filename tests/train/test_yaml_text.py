"""YAML is read within bounds: what is refused is said in one message, and what is written is read back."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrpet.cli import main
from lrpet.train.yaml_text import DEPTH, LARGEST, read_yaml, write_yaml

BOMB = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" if i else "a0: &a0 [1]\n" for i in range(12))
REFUSED = {
    BOMB: "aliases",
    "a: &a [*a]": "aliases",
    "{" * 300: "nested deeper than 20 levels",
    "a: " + "[" * DEPTH + "]" * DEPTH: "nested deeper",
    "- " * 500 + "a": "nested deeper",
    "lr: 0.1\nepochs: 3\nlr: 0.2": "'lr' twice",
    "a: {b: 1, b: 2}": "'b' twice",
    "a: " + "1" * LARGEST: "characters",
    "a: 2020-99-99": "month",
    "a: !!python/object/apply:os.system [ls]": "constructor",
    "a: \x1b[31m": "not allowed",
}


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: text[:12])
def test_what_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=REFUSED[text]):
        read_yaml(text)


def test_a_command_says_it_in_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "recipe.yaml").write_text(BOMB)
    assert main(["train", str(tmp_path / "recipe.yaml")]) == 2
    assert main(["train", "--keep", "0.5", "--model-args", BOMB]) == 2
    assert main(["plan", "resnet8", "--keep", "0.5", "--overrides", "{" * 100 + "a" * 10_000]) == 2
    said = capsys.readouterr().err
    assert said.count("lrpet: ") == 3
    assert "looks like a bug" not in said
    assert len(said) < 2000


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="ascii")), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=30, deadline=None)
@given(plain)
def test_what_is_written_is_read_back(value: object) -> None:
    assert read_yaml(write_yaml({"twice": [value, value]})) == {"twice": [value, value]}
