"""`lrpet search`: what it passes on, and the command that trains what it found."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import lrpet
from lrpet.cli import main
from lrpet.train import search as module
from lrpet.train.options import OPTIONS

RECIPE: dict[str, Any] = {
    "model": "resnet8",
    "macs": 0.5,
    "params": 0.6,
    "include": ["layer1.*"],
    "multiple_of": 4,
    "factorize_all": True,
    "epochs": 1,
}


def test_the_search_it_asks_for_and_the_command_it_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, folder = tmp_path / "recipe.yaml", tmp_path / "search"
    recipe.write_text(yaml.safe_dump(RECIPE))
    plan = lrpet.plan(lrpet.models.create("resnet8"), torch.zeros(1, 3, 32, 32), macs=0.5)
    asked: list[module.Search] = []

    def search(options: module.Search, *, console: object) -> lrpet.Plan:
        asked.append(options)
        options.folder.mkdir()
        (options.folder / "plan.json").write_text(plan.to_json())
        return plan

    monkeypatch.setattr(module, "search", search)
    line = ["search", str(recipe), str(folder), "--trials", "7", "--groups", "layer1.*", "layer2.*"]
    assert main([*line, "--data-dir", "here"]) == 0
    (given,) = asked
    assert (given.trials, given.groups, given.lowest) == (7, ("layer1.*", "layer2.*"), OPTIONS["lowest"].default)
    assert given.recipe.data_dir == Path("here")
    last = capsys.readouterr().out.splitlines()[-1]
    command = shlex.split(last.removeprefix("train it with: lrpet "))
    assert command[:2] == ["train", str(recipe)]
    assert main([*command, "--print-config"]) == 0  # a plan refuses budgets and limits beside it
    values = yaml.safe_load(capsys.readouterr().out)
    assert (values["plan"], values["macs"], values["include"]) == (str(folder / "plan.json"), None, [])


def test_defaults_are_the_declared_ones() -> None:
    fields = module.Search.__dataclass_fields__
    for name in ("trials", "objective", "sampler", "lowest", "highest", "weight", "groups", "storage", "study"):
        assert fields[name].default == OPTIONS[name].default


@pytest.mark.parametrize(
    ("recipe", "options", "message"),
    [
        ({"keep": 0.5}, [], "needs a recipe with macs, params or bytes"),
        ({"macs": 0.5, "holdout": 0}, [], "held-out data"),
        ({"macs": 0.5}, ["--lowest", "0.5", "--highest", "0.4"], "must rise"),
        ({"macs": 0.5}, ["--study", "ranks"], "storage and study go together"),
        ({"macs": 0.5}, ["--study", "ranks", "--storage", "here"], "storage is not the URL of a database"),
        ({"macs": 0.5}, ["--study", "ranks", "--storage", "sqlite://"], "storage=sqlite:// is in memory"),
        (
            {"macs": 0.5},
            ["--study", "ranks", "--storage", "postgresql+none://me@db/x"],
            "pip install 'lrpet[postgresql]'",
        ),
        (
            {"macs": 0.5},
            ["--study", "ranks", "--storage", "postgresql+psycopg://me:secret@127.0.0.1:1/x"],
            "the database at storage=postgresql+psycopg://me:***@127.0.0.1:1/x does not answer",
        ),
    ],
)
def test_bad_searches_are_one_message(
    recipe: dict[str, Any], options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    assert main(["search", str(path), str(tmp_path / "search"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "search").exists()
