"""Options as they are declared: read from text, bounded, and light to import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lrpet.train.declaration import Option
from lrpet.train.options import BUDGETS, GROUPS, LIMITS, OPTIONS, RECIPE

ROOM = Path(sys.modules[Option.__module__].__file__ or "").parent


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("start", "0", 0),
        ("start", "0.5", 0.5),
        ("every", "epoch", "epoch"),
        ("max_rank", "7", 7),
        ("macs", "1e6", 1e6),
        ("data_dir", "some/where", Path("some/where")),
        ("overrides", "{conv1: null}", {"conv1": None}),
        ("include", "*.mlp.*", "*.mlp.*"),
        ("device", "cpu", "cpu"),
        ("batch_sizes", "16", 16),
        ("runtimes", "compile", "compile"),
    ],
)
def test_values_are_read_from_text(name: str, text: str, value: object) -> None:
    read = OPTIONS[name].read(text)
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("batch_size", "0", "^0 must be at least 1$"),
        ("keep", "1.5", "^1.5 must be above 0 and at most 1$"),
        ("keep", "nan", "must be above 0"),
        ("min_rank", "half", "^'half' must be a whole number$"),
        ("every", "sometimes", "^'sometimes' must be a whole number or a number or 'epoch'$"),
        ("device", "tpu", "'auto' or 'cpu' or 'cuda'"),
        ("overrides", "{a: ", "is not YAML"),
        ("batch_sizes", "many", "^'many' must be a whole number$"),
        ("batch_sizes", "0", "^0 must be at least 1$"),
        ("runtimes", "tensorrt", "^'tensorrt' must be 'eager' or 'compile' or 'onnxruntime' or 'openvino'$"),
    ],
)
def test_bad_values_say_what_is_allowed(name: str, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OPTIONS[name].read(text)


def test_every_option_is_declared_once_and_described() -> None:
    assert sum(map(len, GROUPS.values())) == len(RECIPE)
    assert RECIPE.keys() < OPTIONS.keys()
    assert {*BUDGETS, *LIMITS} < GROUPS["compression"].keys()
    for name, option in OPTIONS.items():
        assert option.name == name
        assert len(option.help) > 10
        assert option.help[0].islower() or option.help.split()[0] in ("Nesterov", "Optuna's"), name
        assert not option.help.endswith("."), name


def test_a_command_may_change_an_option_for_itself() -> None:
    changed = OPTIONS["batch_size"].but(default=1, help="images in a pass")
    assert (changed.flag, changed.default, changed.limits) == ("--batch-size", 1, OPTIONS["batch_size"].limits)
    assert OPTIONS["batch_size"].default == 128


def test_options_import_the_standard_library_alone() -> None:
    code = f"""
import sys, types
for name, path in (("lrpet", {str(ROOM.parent)!r}), ("lrpet.train", {str(ROOM)!r})):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [path]
before = set(sys.modules)
import lrpet.train.options
new = {{name.partition(".")[0] for name in sys.modules.keys() - before}}
assert new - sys.stdlib_module_names == {{"lrpet"}}, new
"""
    subprocess.run([sys.executable, "-c", code], check=True)
