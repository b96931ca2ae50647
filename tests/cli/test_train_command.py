"""`lrpet train` and `lrpet eval`, called as a person would."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import lrpet
from lrpet.cli import main
from lrpet.train.config import make_config, read_config
from lrpet.train.options import RECIPE

QUICK = ["train", "--model", "resnet8", "--data", "digits", "--keep", "0.5", "--epochs", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "finished"
    assert main([*QUICK, "--lr", "0.05", "--output", str(folder)]) == 0
    return folder


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    capsys.readouterr()
    assert main(["train", *arguments, "--print-config"]) == 0
    values = yaml.safe_load(capsys.readouterr().out)
    assert isinstance(values, dict)
    return values


def test_train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*QUICK, "--output", str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    assert "test accuracy" in out
    assert "   1/1  train" in out
    assert f"report: {tmp_path / 'run' / 'report.html'}" in out
    assert "<title>run: resnet8" in (tmp_path / "run" / "report.html").read_text()
    assert main([*QUICK, "--output", str(tmp_path / "run")]) == 2
    assert "--resume" in capsys.readouterr().err


def test_eval_says_what_the_run_measured(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    for part, accuracy in (("test", summary["test_accuracy"]), ("validation", summary["val_accuracy"])):
        assert main(["eval", str(finished), "--part", part, "--batch-size", "64"]) == 0
        assert f"{part} accuracy {accuracy:.2%}" in capsys.readouterr().out


def test_eval_takes_the_folder_of_a_compact_network(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    accuracy = json.loads((finished / "summary.json").read_text())["test_accuracy"]
    shutil.copytree(finished / "compact", tmp_path / "compact")
    assert main(["eval", str(tmp_path / "compact")]) == 0
    assert f"test accuracy {accuracy:.2%}" in capsys.readouterr().out
    lrpet.save(lrpet.load(finished / "compact"), tmp_path / "nameless")
    assert main(["eval", str(tmp_path / "nameless")]) == 2
    assert "data" in capsys.readouterr().err
    assert main(["eval", str(tmp_path / "nameless"), "--data", "digits"]) == 0
    assert "test accuracy" in capsys.readouterr().out
    assert main(["eval", str(tmp_path / "compact"), "--part", "validation"]) == 2
    assert "validation" in capsys.readouterr().err


def test_a_run_is_resumed_by_its_own_options(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "--resume", "--output", str(finished))["lr"] == 0.05
    assert main(["train", "--resume", "--output", str(finished)]) == 0
    assert main(["train", "--resume", "--output", str(finished), "--lr", "0.2"]) == 2
    assert "lr was 0.05 and is 0.2" in capsys.readouterr().err
    assert main([*QUICK, "--lr", "0.05", "--resume", "--output", str(finished)]) == 0  # as it was begun


def test_a_finished_run_goes_on_quietly(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What keeps its page from being made is said, and is no failure of the run."""
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "bench.json").write_text("{")
    capsys.readouterr()
    assert main(["train", "--resume", "--output", str(tmp_path / "run"), "--epochs", "2", "--quiet"]) == 0
    out, said = capsys.readouterr()
    assert out == ""
    assert "the run is finished, but its report was not made" in said
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["epochs"] == 2
    assert read_config(tmp_path / "run" / "config.yaml").epochs == 2


def test_a_run_in_its_usual_folder_is_resumed(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = make_config({"model": "resnet8", "keep": 0.5}).folder
    shutil.copytree(finished, folder)
    options = printed(capsys, "--model", "resnet8", "--keep", "0.5", "--resume")
    assert (options["lr"], options["output"]) == (0.05, str(folder))


def test_what_cannot_be_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--resume"]) == 2
    assert "--output RUN" in capsys.readouterr().err
    assert main(["train", "--resume", "--output", str(tmp_path / "none")]) == 2
    assert "there is no run in" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--keep", "1.5"], "keep='1.5'"),
        (["--keep", "0.5", "--data", "mnist-1d"], "mnist-1d"),
        ([], "takes keep, or a plan, or budgets of macs"),
        (["--keep", "0.5", "--every", "sometimes"], "every"),
        (["missing.yaml"], "there is no recipe missing.yaml"),
        (["--macs", "0.001"], "cannot be met"),
        (["--keep", "0.5", "--batch-size", "100000"], "batch_size=100000"),
        (["--keep", "0.5", "--model", "timm:vit_tiny_patch16_224"], "vit_tiny_patch16_224"),
    ],
)
def test_a_failed_start_is_one_message_and_leaves_nothing(
    arguments: list[str], message: str, refused: Callable[[list[str], str], None]
) -> None:
    refused(["train", *arguments], message)


def test_an_interruption_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(lrpet.Projector, "step", interrupted)
    assert main([*QUICK, "--output", str(tmp_path / "run")]) == 130
    assert "lrpet train --resume --output RUN" in capsys.readouterr().err


def test_print_config_round_trips(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--keep", "0.38", "--every", "50", "--compile", "--no-rectify", "--print-config"]) == 0
    (tmp_path / "recipe.yaml").write_text(capsys.readouterr().out)
    assert read_config(tmp_path / "recipe.yaml") == make_config(
        {"keep": 0.38, "every": 50, "compile": True, "rectify": False}
    )


def test_options_go_over_the_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("model: resnet32\nkeep: 0.5\nepochs: 7\ninclude: [layer1.*]\n")
    values = printed(capsys, str(recipe), "--epochs", "9", "--start", "0.25", "--exclude", "a", "b")
    assert (values["model"], values["keep"], values["epochs"]) == ("resnet32", 0.5, 9)
    assert (values["start"], values["include"], values["exclude"]) == (0.25, ["layer1.*"], ["a", "b"])
    values = printed(capsys, str(recipe), "--keep", "none", "--macs", "0.4", "--include", "none", "--start", "100")
    assert (values["keep"], values["macs"], values["include"], values["start"]) == (None, 0.4, [], 100)


def test_help_shows_every_option_with_its_default(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "500")
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for option in RECIPE.values():
        assert f" {option.flag} " in text or f" {option.flag}, --no-" in text
        if isinstance(option.default, bool):
            assert f"{option.help} [{'yes' if option.default else 'no'}]" in text
        else:
            assert option.help + ("" if option.optional else f" [{option.default}]") in text
    assert "[tensorboard]" in text
