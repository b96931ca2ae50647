"""The command line as a whole: help, versions, exit statuses, and whose fault a failure is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import lrpet
from helpers import write_folder
from lrpet import cli
from lrpet.cli import COMMANDS, main
from lrpet.cli.failures import reported
from lrpet.train import declaration
from lrpet.train.config import make_config
from lrpet.train.data.batches import batches
from lrpet.train.data.options import BatchOptions
from lrpet.train.data.sets import load

SOURCE = str(Path(lrpet.__file__).parents[1])
ENVIRONMENT = {**os.environ, "PYTHONPATH": SOURCE, "COLUMNS": "100"}

BLOCKED = """
import importlib.abc, sys

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in sys.stdlib_module_names | {"lrpet"}:
            raise ModuleNotFoundError(f"not installed: {name}", name=name)

sys.meta_path.insert(0, Blocker())
sys.argv[0] = "lrpet"
import runpy
runpy.run_module("lrpet", run_name="__main__")
"""


@pytest.mark.parametrize("command", ["", *(command.name for command in COMMANDS)])
def test_help_needs_the_standard_library_alone(command: str) -> None:
    line = [sys.executable, "-S", "-c", BLOCKED, *command.split(), "--help"]
    result = subprocess.run(line, env=ENVIRONMENT, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(f"usage: lrpet {command}".strip())
    assert "examples:\n  lrpet " in result.stdout


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("lrpet ")


def test_as_a_module() -> None:
    result = subprocess.run([sys.executable, "-m", "lrpet", "plan", "resnet21"], env=ENVIRONMENT, capture_output=True)
    assert result.returncode == 2
    assert b"lrpet: there is no model 'resnet21'" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [["--vers"], ["plan", "resnet20", "--kee", "0.5"], ["train", "--epoch", "3"], ["eval", "run", "--batch", "3"]],
)
def test_options_cannot_be_shortened(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "--" in capsys.readouterr().err


@pytest.mark.parametrize("line", [["plan", "resnet20", "--keep", "0.5"], ["train", "--help"]])
def test_nobody_reading_the_output_is_no_error(line: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "lrpet", *line]
    result = subprocess.run(command, env=ENVIRONMENT, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert result.returncode in (0, 141)
    assert result.stderr == ""


def _not_a_number(_: Any) -> None:
    int("not a number")  # a ValueError of Python's own


def _unpacked(_: Any) -> None:
    raise RuntimeError("something inside")


@pytest.mark.parametrize("broken", [_not_a_number, _unpacked])
def test_a_bug_is_not_called_bad_input(
    broken: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lrpet import models

    monkeypatch.setattr(models, "create", lambda *_, **__: broken(None))
    assert main(["plan", "resnet20", "--keep", "0.5"]) == 1
    text = capsys.readouterr().err
    assert "this looks like a bug in lrpet: " in text
    assert "--debug" in text
    assert "Traceback" not in text
    assert main(["plan", "resnet20", "--keep", "0.5", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_debug_shows_the_traceback_of_bad_input_too(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--debug", "plan", "resnet21"], ["plan", "resnet21", "--debug"]):
        assert main(arguments) == 2
        text = capsys.readouterr().err
        assert text.startswith("Traceback")
        assert text.splitlines()[-1].startswith("lrpet: there is no model 'resnet21'")


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (FileNotFoundError(2, "No such file or directory", "x.json"), 2, "x.json"),
        (ModuleNotFoundError("No module named 'timm'", name="timm"), 2, r"no module 'timm': .*lrpet\[train\]"),
        (ModuleNotFoundError("No module named 'lrpet.x'", name="lrpet.x"), 1, "looks like a bug"),
        (MemoryError("too much"), 1, "out of memory .* lower --batch-size"),
        (KeyError("x"), 1, "looks like a bug in lrpet: KeyError"),
        (KeyboardInterrupt(), 130, "^lrpet: come back$"),
        (KeyboardInterrupt("all is kept"), 130, "^lrpet: all is kept$"),
    ],
)
def test_exit_statuses(error: BaseException, status: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    def failing() -> None:
        raise error

    assert reported(failing, interrupted="come back") == status
    assert re.search(message, capsys.readouterr().err.strip())


def test_a_value_error_raised_by_lrpet_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    def here() -> None:
        raise ValueError("by nobody in lrpet")

    def refused() -> None:
        make_config({"keep": 2})

    assert reported(refused) == 2
    assert capsys.readouterr().err.startswith("lrpet: keep=2: ")
    for bug in (here, lambda: declaration._read(int, "x")):  # the second by Python, on a line of lrpet
        assert reported(bug) == 1
        assert "looks like a bug" in capsys.readouterr().err


def test_a_message_gives_the_terminal_no_orders(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["eval", str(tmp_path / "no\x1b]0;title\x07\u202e")]) == 2
    said = capsys.readouterr().err
    assert r"no\x1b]0;title\x07\u202e" in said
    assert said.rstrip("\n").isprintable()


INTERRUPTED = """
import importlib.abc, os, runpy, signal, sys

loading = sys.argv.pop(1)

class Interrupt(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == loading:
            sys.meta_path.remove(self)
            exec("os.kill(os.getpid(), signal.SIGINT)")  # as the class of a dataclass is made: Python remembers it

signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in the background begin with the signal ignored
sys.meta_path.insert(0, Interrupt())
runpy.run_module("lrpet", run_name="__main__")
"""


@pytest.mark.parametrize("loading", ["lrpet.cli", "lrpet.cli.train", "torch"])
def test_ctrl_c_while_a_command_is_loaded_is_one_message(loading: str, tmp_path: Path) -> None:
    line = [sys.executable, "-c", INTERRUPTED, loading, "train", "--keep", "0.5", "--output", str(tmp_path / "run")]
    result = subprocess.run(line, env=ENVIRONMENT, capture_output=True, text=True)
    assert result.returncode == 130
    assert result.stderr.startswith("lrpet: interrupted")
    assert len(result.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_broken_image_that_a_worker_reads_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(tmp_path)
    broken = next((tmp_path / "train" / "cat").glob("*.png"))
    broken.write_text("no image")
    dataset = load(f"folder:{tmp_path}", image_size=8)
    options = BatchOptions(4, num_workers=1)
    epoch = batches(dataset.train, dataset, options, device=torch.device("cpu"), train=False)

    def reading() -> None:
        list(epoch)

    assert reported(reading) == 2
    text = capsys.readouterr().err
    assert text.startswith(f"lrpet: {broken} is no readable image")
    assert len(text.splitlines()) == 1


def test_every_command_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert all(f"    {command.name}" in text for command in COMMANDS)
    assert cli.__doc__ is not None
    assert all(f"`lrpet {command.name}`" in cli.__doc__ for command in COMMANDS)
