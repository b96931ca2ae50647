"""A run that several files look at, and none changes."""

from pathlib import Path

import pytest
from runs import quick, run


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "finished"
    run(quick(folder))
    return folder
