"""One thread a process: threads of several test workers on few cores wait for each other for minutes."""

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
