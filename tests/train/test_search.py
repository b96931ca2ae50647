"""A search for ranks: its objectives, that it goes on after being killed, that processes share it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

import lrpet
from lrpet.cli import main
from lrpet.train import claim, storage
from lrpet.train import search as module
from lrpet.train.config import make_config
from lrpet.train.run import train
from lrpet.train.search import Search, open_study, search

RECIPE: dict[str, Any] = {
    "model": "resnet20",
    "data": "digits",
    "macs": 0.4,
    "every": 5,
    "epochs": 1,
    "batch_size": 256,
    "holdout": 0.2,
    "device": "cpu",
    "seed": 1,
}


def options(folder: Path, **changes: Any) -> Search:
    return Search(make_config(RECIPE), folder, **{"trials": 2, **changes})


def complete(given: Search) -> list[optuna.trial.FrozenTrial]:
    study, made = open_study(given)
    assert not made
    return study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))


@pytest.mark.parametrize("objective", ["budget", "weighted", "pareto"])
def test_a_search_leaves_its_best_plan(tmp_path: Path, objective: Any) -> None:
    given = options(tmp_path / "search", objective=objective, sampler="gp" if objective == "weighted" else "tpe")
    best = search(given)
    trials = complete(given)
    assert len(trials) == 2
    assert lrpet.Plan.from_json((given.folder / "plan.json").read_text()) == best
    plans = [lrpet.Plan.from_dict(trial.user_attrs["plan"]) for trial in trials]
    assert best in plans
    assert plans[0] != plans[1]
    accuracies = [trial.user_attrs["accuracy"] for trial in trials]
    if objective == "budget":
        assert all(0.38 * plan.macs_dense < plan.macs <= 0.4 * plan.macs_dense for plan in plans)
    if objective != "weighted":
        assert plans[accuracies.index(max(accuracies))].macs >= best.macs
    assert len(trials[0].values) == (2 if objective == "pareto" else 1)
    assert (given.folder / "front.svg").stat().st_size > 1000
    front = [lrpet.Plan.from_json(file.read_text()) for file in sorted((given.folder / "front").glob("*.json"))]
    if objective == "pareto":
        costs = [plan.macs for plan in front]
        assert costs == sorted(set(costs))  # accuracy, by which they are named, rises with cost on a front
        assert best in front
    else:
        assert not front
    assert not list((given.folder / "trials").iterdir())


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_a_search_chooses_the_same_trials_again(tmp_path: Path, sampler: Any) -> None:
    searches = [options(tmp_path / name, objective="pareto", sampler=sampler, groups=("*",)) for name in "ab"]
    for each in searches:
        search(each)
    first, second = ([trial.params for trial in complete(each)] for each in searches)
    assert first == second
    assert first[0] != first[1]


def test_layers_of_a_group_share_a_ratio(tmp_path: Path) -> None:
    groups = ("layer1.*", "layer[23].*.conv1")
    given = options(tmp_path / "search", groups=groups)
    search(given)
    (uniform, other) = complete(given)
    assert set(uniform.params) == {*groups, "conv1", *(f"layer{i}.{j}.conv2" for i in (2, 3) for j in range(3))}
    assert set(uniform.params.values()) == {given.highest}  # the same everywhere is tried first
    ranks = lrpet.Plan.from_dict(other.user_attrs["plan"]).ranks
    assert len({rank for name, rank in ranks.items() if name.startswith("layer1.")}) <= 2  # apart by rounding
    with pytest.raises(ValueError, match=r"groups names layer9\.\*"):
        search(options(tmp_path / "other", groups=("layer1.*", "layer9.*")))


@pytest.mark.parametrize("objective", ["budget", "weighted"])
def test_trials_keep_the_limits_of_the_recipe(tmp_path: Path, objective: Any) -> None:
    recipe = {
        **RECIPE,
        "macs": None,
        "params": 0.6,
        "multiple_of": 4,
        "include": ("layer2.*", "layer3.*"),
        "overrides": {"layer3.2.*": None, "layer3.1.conv1": 5},
    }
    given = Search(make_config(recipe), tmp_path / "search", trials=2, objective=objective)
    search(given)
    for trial in complete(given):
        assert set(trial.params) == {f"layer{i}.{j}.conv{k}" for i in (2, 3) for j in range(3) for k in (1, 2)} - {
            "layer3.2.conv1",
            "layer3.2.conv2",
            "layer3.1.conv1",
        }
        plan = lrpet.Plan.from_dict(trial.user_attrs["plan"])
        assert plan.ranks["layer3.1.conv1"] == 5
        assert all(rank % 4 == 0 for name, rank in plan.ranks.items() if name != "layer3.1.conv1")
        assert objective == "weighted" or 0.97 < plan.params / plan.params_dense / 0.6 <= 1


def test_an_interrupted_search_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = options(tmp_path / "search", trials=3)
    fit = module.fit  # type: ignore[attr-defined]
    calls = 0

    def dying(*arguments: Any, **rest: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls in (1, 3):
            raise KeyboardInterrupt
        return fit(*arguments, **rest)

    monkeypatch.setattr(module, "fit", dying)
    with pytest.raises(KeyboardInterrupt):
        search(given)
    (given.folder / "recipe.yaml").write_text("")  # as a process leaves it that is killed while it writes
    with pytest.raises(KeyboardInterrupt):
        search(given)
    (first,) = complete(given)
    assert set(first.params.values()) == {given.highest}  # the baseline is taken again
    search(given)
    assert len(complete(given)) == 3
    assert complete(given)[0] == first
    before = calls
    search(given)  # there are enough
    assert calls == before
    assert yaml.safe_load((given.folder / "recipe.yaml").read_text())["recipe"]["macs"] == 0.4


def test_the_trial_of_a_lost_process_is_taken_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = options(tmp_path / "search", trials=1)
    code = (
        "import os, sys; from lrpet.cli import main; from lrpet.train import search; "
        "search.fit = lambda *_, **__: os._exit(9); main()"
    )
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE))
    command = [sys.executable, "-c", code, "search", str(recipe), str(given.folder), "--trials", "1"]
    assert subprocess.run(command, check=False).returncode == 9
    monkeypatch.setattr(storage, "GRACE", -1)
    search(given)
    (trial,) = complete(given)
    assert set(trial.params.values()) == {given.highest}
    assert trial.number == 1
    study, _ = open_study(given)
    assert [each.state.name for each in study.get_trials()] == ["FAIL", "COMPLETE"]
    assert not list((given.folder / "alive").iterdir())


def test_a_process_whose_trial_was_taken_goes_on_with_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = options(tmp_path / "search", trials=1)
    fit = module.fit  # type: ignore[attr-defined]

    def slow(*arguments: Any, **rest: Any) -> Any:
        study, _ = open_study(given)
        if len(study.get_trials()) == 1:  # as another process does that heard nothing of it
            monkeypatch.setattr(storage, "GRACE", -1)
            optuna.storages.fail_stale_trials(study)
            monkeypatch.setattr(storage, "GRACE", 120)
        return fit(*arguments, **rest)

    monkeypatch.setattr(module, "fit", slow)
    search(given)
    study, _ = open_study(given)
    assert [each.state.name for each in study.get_trials()] == ["FAIL", "COMPLETE"]


def test_two_processes_share_one_study(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE))
    command = [
        sys.executable,
        "-c",
        "import sys; from lrpet.cli import main; sys.exit(main())",
        "search",
        str(recipe),
        str(tmp_path / "search"),
        "--trials",
        "4",
    ]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=300) for process in running]
    assert [process.returncode for process in running] == [0, 0], outputs
    trials = complete(options(tmp_path / "search"))
    assert 4 <= len(trials) <= 5  # the last of each may have begun together
    assert len({json.dumps(trial.params) for trial in trials}) == len(trials)
    shown = ["\n".join(output) for output in outputs]
    assert sum(text.count("trial ") for text in shown) == len(trials)
    assert all(text.count("trial ") >= 1 for text in shown)


def test_the_best_plan_trains(tmp_path: Path) -> None:
    network = lrpet.models.create("resnet20", in_channels=1)
    import torch

    plan = lrpet.plan(network, torch.zeros(1, 1, 8, 8), macs=0.37)
    (tmp_path / "plan.json").write_text(plan.to_json())
    settings = {**RECIPE, "macs": None, "plan": tmp_path / "plan.json", "output": tmp_path / "run"}
    from lrpet.train.console import Console

    summary = train(make_config(settings), console=Console(quiet=True))
    assert summary["macs"] == plan.macs
    with pytest.raises(ValueError, match="got macs and plan"):
        make_config({**settings, "macs": 0.5})
    with pytest.raises(FileNotFoundError, match="there is no plan"):
        train(make_config({**settings, "plan": tmp_path / "none.json", "output": tmp_path / "other"}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trials": 0}, "trials=0"),
        ({"lowest": 0.5, "highest": 0.4}, "must rise"),
        ({"recipe": make_config({**RECIPE, "holdout": 0.0})}, "held-out data"),
        ({"recipe": make_config({**RECIPE, "macs": None, "keep": 0.5})}, "needs a recipe with macs, params or bytes"),
        ({"recipe": make_config({**RECIPE, "allocate": "energy", "descent": 0.5})}, "leave allocate=energy out"),
    ],
)
def test_bad_searches_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Search(**{"recipe": make_config(RECIPE), "folder": tmp_path, **changes})


def test_another_searchs_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    claim.mark_folder(tmp_path, options(tmp_path).described())
    recipe = tmp_path / "other.yaml"
    recipe.write_text(yaml.safe_dump({**RECIPE, "seed": 2}))
    assert main(["search", str(recipe), str(tmp_path), "--sampler", "gp"]) == 2
    message = capsys.readouterr().err
    assert "holds another search" in message
    assert "in which seed is 1, and 2 here; sampler is tpe, and gp here: choose another folder" in message


def test_a_line_that_was_cut_off_is_taken_away(tmp_path: Path) -> None:
    given = options(tmp_path, trials=1, groups=("*",))
    best = search(given)
    journal = tmp_path / "study.journal"
    whole = journal.read_bytes()
    journal.write_bytes(whole + whole[: whole.index(b"\n") // 2])
    assert search(given) == best
    assert journal.read_bytes().startswith(whole + b'{"op_code"')
    assert search(options(tmp_path, trials=2, groups=("*",)))
    assert len(complete(given)) == 2


def test_a_damaged_study_is_refused(tmp_path: Path) -> None:
    given = options(tmp_path, trials=1, groups=("*",))
    search(given)
    journal = tmp_path / "study.journal"
    whole = journal.read_bytes()
    for damaged, message in (
        (whole[:9] + b"\0" + whole[10:], "study.journal is damaged, and the trials in it cannot be read"),
        (whole + b"[]]\n", "study.journal is damaged"),
        (whole.replace(b'"accuracy":', b'"accuracies":'), "trial 0 of the study is damaged"),
    ):
        assert damaged != whole
        journal.write_bytes(damaged)
        with pytest.raises(ValueError, match=message):
            search(given)
        assert journal.read_bytes().startswith(damaged)
