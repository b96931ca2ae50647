"""The command line, called as a person would."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

import lrpet
from lrpet.cli import main
from lrpet.train.config import Config, make_config, read_config
from lrpet.train.task import load_start

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


def test_train_and_eval(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    line = ["train", "--model", "resnet20", "--data", "digits", "--keep", "0.5", "--epochs", "1", "--seed", "0"]
    assert main([*line, "--device", "cpu", "--every", "5", "--output", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "test accuracy" in out
    assert "   1/1  train" in out
    accuracy = json.loads((folder / "summary.json").read_text())["test_accuracy"]
    assert main(["eval", str(folder)]) == 0
    assert f"test accuracy {accuracy:.2%}" in capsys.readouterr().out

    assert main([*line, "--device", "cpu", "--every", "5", "--output", str(folder)]) == 2
    assert "--resume" in capsys.readouterr().err


def test_plan_prints_the_known_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "resnet56", "--keep", "0.43"]) == 0
    assert "125.49 M → 56.06 M multiply-adds" in capsys.readouterr().out


def test_plan_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "resnet20", "--macs", "0.5", "--json"]) == 0
    plan = lrpet.Plan.from_json(capsys.readouterr().out)
    assert plan.macs <= 0.5 * plan.macs_dense


def test_a_plan_by_trained_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start = tmp_path / "dense"
    dense = [
        "train",
        "--model",
        "resnet20",
        "--data",
        "digits",
        "--method",
        "dense",
        "--epochs",
        "1",
        "--device",
        "cpu",
    ]
    assert main([*dense, "--output", str(start)]) == 0
    capsys.readouterr()
    line = ["plan", "resnet20", "--macs", "0.5", "--in-channels", "1", "--start", str(start), "--json"]
    plans = {}
    for allocate in ("uniform", "energy", "threshold"):
        assert main([*line, "--allocate", allocate]) == 0
        plans[allocate] = lrpet.Plan.from_json(capsys.readouterr().out)
    network = lrpet.models.create("resnet20", in_channels=1)
    load_start(start, network)
    for allocate, plan in plans.items():
        assert plan.ranks == lrpet.plan(network, torch.zeros(1, 1, 32, 32), macs=0.5, allocate=allocate).ranks  # type: ignore[arg-type]
    assert len({str(plan.ranks) for plan in plans.values()}) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "resnet21", "--keep", "0.5"], "resnet21"),
        (["plan", "resnet20"], "one or more budgets of macs, params, bytes and latency"),
        (["plan", "resnet20", "--keep", "0.5", "--macs", "0.5"], "keep and macs"),
        (["plan", "resnet20", "--macs", "0.0001"], "cannot be met"),
        (["plan", "resnet20", "--macs", "0.5", "--allocate", "energy"], "by --start or --pretrained"),
        (["plan", "resnet20", "--macs", "0.5", "--start", "nowhere"], "start=nowhere: no file"),
        (["plan", "resnet20", "--macs", "0.5", "--pretrained"], "no pretrained weights for 'resnet20'"),
        (["train", "--keep", "1.5"], "keep='1.5'"),
        (["train", "--keep", "0.5", "--data", "mnist-1d"], "mnist-1d"),
        (["train"], "takes keep, or a plan, or budgets of macs"),
        (["train", "--keep", "0.5", "--every", "sometimes"], "every"),
        (["train", "missing.yaml"], "there is no recipe missing.yaml"),
        (["eval", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_is_one_clear_message(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert list(tmp_path.iterdir()) == []


def test_print_config_round_trips(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--keep", "0.38", "--every", "50", "--compile", "--no-rectify", "--print-config"]) == 0
    (tmp_path / "recipe.yaml").write_text(capsys.readouterr().out)
    config = read_config(tmp_path / "recipe.yaml")
    assert (config.keep, config.every, config.compile, config.rectify) == (0.38, 50, True, False)
    assert config == make_config({"keep": 0.38, "every": 50, "compile": True, "rectify": False})


def test_overrides_go_over_the_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "recipe.yaml").write_text("model: resnet32\nkeep: 0.5\nepochs: 7\n")
    assert main(["train", str(tmp_path / "recipe.yaml"), "--epochs", "9", "--print-config"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert (printed["model"], printed["keep"], printed["epochs"]) == ("resnet32", 0.5, 9)


@pytest.mark.parametrize("text", ["- a\n- list\n", "{", "keeep: 0.5\n", "keep: [1]\n"])
def test_bad_recipes(text: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"recipe\.yaml|keep"):
        read_config(tmp_path / "recipe.yaml")


def test_none_takes_back_what_a_recipe_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("keep: 0.5\n")
    assert main(["train", str(recipe), "--keep", "none", "--macs", "0.4", "--print-config"]) == 0
    printed = capsys.readouterr().out
    assert "keep: null\n" in printed
    assert "macs: 0.4\n" in printed


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipes_are_valid(recipe: Path) -> None:
    read_config(recipe)


def test_there_are_recipes() -> None:
    assert RECIPES


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = capsys.readouterr().out
    assert all(f"--{name.replace('_', '-')}" in text for name in Config.model_fields)
