"""One thread a process: threads of several test workers on few cores wait for each other for minutes."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from helpers import Small

torch.set_num_threads(1)


@pytest.fixture
def small() -> Small:
    torch.manual_seed(0)
    return Small()


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that several files look at, and none changes."""
    from runs import quick, run

    folder = tmp_path_factory.mktemp("runs") / "finished"
    run(quick(folder))
    return folder


@pytest.fixture
def untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs do not take the time of their networks, which is most of a small run's own."""
    from lrpet.train import run

    monkeypatch.setattr(run, "quartiles", lambda contenders, images: dict.fromkeys(contenders, (1.0, 1.0, 1.0)))


@pytest.fixture
def refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[list[str], str], None]:
    """Checks that the command line refuses its arguments with one message, and leaves no file or folder behind."""
    from lrpet.cli import main

    def check(arguments: list[str], message: str) -> None:
        monkeypatch.chdir(tmp_path)
        assert main(arguments) == 2
        text = capsys.readouterr().err
        assert message in text
        assert "Traceback" not in text
        assert list(tmp_path.iterdir()) == []

    return check
