"""What README and documentation show works: their Python runs, and their commands are commands."""

from __future__ import annotations

import functools
import importlib.util
import re
import shlex
import shutil
import tomllib
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

import lrpet
from lrpet.cli import _parser
from lrpet.cli.train import config_of
from old_torch import exporting
from pages import GIVEN, PAGES, ROOT, alone, blocks, run

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def page_name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def runnable(name: str) -> Any:
    """A page, left out where it exports and torch is too old for that."""
    code = "".join(block.text for block in blocks(ROOT / name, "python"))
    return pytest.param(name, marks=exporting if "lrpet.export(" in code or "onnxruntime" in code else ())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [runnable(name) for name in GIVEN])
def test_python_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lrpet, "bench", functools.partial(lrpet.bench, seconds=0.02))  # what times are is not looked at
    with alone() if name == "docs/scaling.md" else nullcontext():
        run(ROOT / name, GIVEN[name]())


def test_every_page_with_python_is_run() -> None:
    assert {page_name(page) for page in PAGES if blocks(page, "python")} == GIVEN.keys()


def test_every_block_has_a_language() -> None:
    languages = {(page_name(page), block.line): block.language for page in PAGES for block in blocks(page)}
    assert {where: language for where, language in languages.items() if language not in ("python", "sh", "math")} == {}


def lines(text: str) -> list[list[str]]:
    """Return the words of every command of a shell block, without comments and what the output goes to."""
    words = (shlex.split(line, comments=True) for line in text.replace("\\\n", " ").splitlines())
    return [line[: line.index(">")] if ">" in line else line for line in words if line]


def check(words: list[str]) -> None:
    """Fail unless a command could be given: options are known, values allowed, and what it names is there."""
    while "=" in words[0]:
        words = words[1:]
    if words[0] == "torchrun":
        words = ["lrpet", *words[words.index("lrpet") + 1 :]]
    match words:
        case ["lrpet", *arguments]:
            options = _parser().parse_args(arguments)
            if arguments[0] == "train":
                config_of(options)
        case ["make", *targets]:
            assert {target for target in targets if "=" not in target} <= TARGETS, words
        case ["pip", "install", *what]:
            asked = {extra for each in what for part in re.findall(r"\[(.*)\]", each) for extra in part.split(",")}
            assert asked <= EXTRAS.keys(), words
        case ["python", "-m", module, *_]:
            assert importlib.util.find_spec(module), words
        case [path, *_]:
            assert path in (".ci/run", ".venv/bin/pre-commit", "mike"), f"no check knows the command {path}"


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder in which the commands' files are: the recipes, one of the reader's own, and runs."""
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    (tmp_path / "recipe.yaml").write_text("{model: resnet20, data: cifar10, macs: 0.45, epochs: 2}")
    for name in ("first", "text"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        shutil.copy(tmp_path / "recipe.yaml", tmp_path / "runs" / name / "config.yaml")
    (tmp_path / "runs" / "search").mkdir()
    (tmp_path / "runs" / "search" / "plan.json").write_text("{}")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("checkout")
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "sh")], ids=page_name)
def test_commands_are_commands(page: Path) -> None:
    found = [words for block in blocks(page, "sh") for words in lines(block.text)]
    assert found
    for words in found:
        check(words)


@pytest.mark.parametrize(
    "line", ["lrpet train --kep 0.5", "lrpet train --data digits --keep 2", "make demonstrate", "pip install 'lrpet[gpu]'",
             "python -m benchmarks.nothing", "lrpet plan", "curl x"],
)  # fmt: skip
def test_wrong_commands_are_seen(line: str) -> None:
    with pytest.raises((SystemExit, ValueError, AssertionError)):
        check(shlex.split(line))


def test_links_lead_somewhere() -> None:
    """Links within the repository, of pages that the site leaves as they are: the strict build checks the others."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#\s]+)", readme)
    assert [target for target in targets if "://" not in target and not (ROOT / target).exists()] == []
