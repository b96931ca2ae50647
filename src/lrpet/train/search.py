"""Searching for ranks: short trainings from the same start, each with other ranks, chosen by Optuna.

The study lives in a file that many processes and machines may share (Optuna's journal); a killed search goes on from it. One
that a single process ran through chooses the same trials again, by the recipe's seed. In the folder:

    study.journal   every trial, as Optuna keeps it          front.svg   accuracy against multiply-adds of all trials
    trials/         run folders of trials under way          plan.json   the best plan, for `lrpet train --plan`
    recipe.yaml     what is trained, and how it is searched  front/      with "pareto", the plan of each trial on the front
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

import optuna
import torch
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

import lrpet
from lrpet.train.config import BUDGETS, Config
from lrpet.train.console import Console
from lrpet.train.fit import fit
from lrpet.train.folder import RunFolder
from lrpet.train.measure import Score, score
from lrpet.train.task import Task, make_plan

#: "budget": every trial has the recipe's budget, the ratios say how the layers share it; accuracy decides. "weighted": the
#: method's authors' −accuracy(projected) − accuracy(factorised) + λ·(multiply-adds compact / dense). "pareto": accuracy against
#: multiply-adds, both.
Objective = Literal["budget", "weighted", "pareto"]


@dataclass(frozen=True)
class Search:
    """What is searched, and how."""

    recipe: Config
    """Of the trials: its epochs should be few. Its budget is what "budget" meets; with the other objectives, any will do."""
    folder: Path
    trials: int = 50
    """In all, those of other processes and of earlier times included."""
    objective: Objective = "budget"
    sampler: Literal["tpe", "gp"] = "tpe"
    lowest: float = 0.05
    highest: float = 1.0
    """Bounds of the ratio of each layer: of its rank, or, with "budget", of the layers to each other."""
    weight: float = 1.0
    """λ of "weighted"."""
    groups: tuple[str, ...] = ()
    """Name patterns: the layers that are like one share a ratio, those that are like none have their own each."""

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise ValueError(f"trials={self.trials} must be at least 1")
        if not 0 < self.lowest < self.highest <= 1:
            raise ValueError(
                f"ratios from lowest={self.lowest} to highest={self.highest} must rise, above 0 and up to 1"
            )
        if self.recipe.method != "lrpet" or self.recipe.holdout == 0:
            raise ValueError(
                "a search needs a recipe of method lrpet, and held-out images to judge trials by: set holdout"
            )
        if self.recipe.allocate not in ("auto", "uniform"):
            raise ValueError(
                f"a search finds the ranks itself: leave allocate={self.recipe.allocate} out of its recipe"
            )
        budgets = [name for name in BUDGETS if name != "keep" and getattr(self.recipe, name) is not None]
        if self.objective == "budget" and not budgets:
            raise ValueError("objective=budget needs a recipe with macs, params or bytes, which every trial meets")


def search(options: Search, *, console: Console | None = None) -> lrpet.Plan:
    """Run trials until there are as many as asked for; return the best plan, which is also in the folder.

    Raises ValueError if the folder holds another search, or the recipe does not fit the data or network.
    """
    console = console or Console(quiet=True)
    new = _claim(options)
    task = Task.of(options.recipe)
    group_of = _groups(_searched(options.recipe, task), options.groups)
    study = _study(options, seed=options.recipe.seed if new else None)  # else processes would choose the same trials
    if new and options.objective == "budget":
        # The same ratio everywhere, to begin with: nothing worse is ever returned.
        study.enqueue_trial(dict.fromkeys(group_of.values(), options.highest))

    def trial(trial: optuna.Trial) -> float | tuple[float, float]:
        suggested = {
            group: trial.suggest_float(group, options.lowest, options.highest, log=True)
            for group in dict.fromkeys(group_of.values())
        }
        ratios = {name: suggested[group] for name, group in group_of.items()}
        if options.objective == "budget":
            plan = make_plan(options.recipe, task.network, task.example, allocate=ratios)
        else:
            plan = _at_ratios(options.recipe, task, ratios)
        trial.set_user_attr("plan", plan.to_dict())
        projected, factorised = _trained(options, plan, trial)
        cost = plan.macs / plan.macs_dense
        trial.set_user_attr("accuracy", factorised)
        trial.set_user_attr("macs", plan.macs)
        console.rich.print(f"trial {trial.number}: {factorised:.2%} with {cost:.1%} of the multiply-adds")
        if options.objective == "pareto":
            return factorised, cost
        return projected + factorised - options.weight * cost if options.objective == "weighted" else factorised

    def enough(study: optuna.Study, _: FrozenTrial) -> None:
        if len(_finished(study)) >= options.trials:
            study.stop()

    if len(_finished(study)) < options.trials:
        study.optimize(trial, callbacks=[enough])
    best = _best(study, options)
    (options.folder / "plan.json").write_text(best.to_json() + "\n", encoding="utf-8")
    if options.objective == "pareto":
        _save_front(study, options.folder / "front")
    _plot(study, options.folder / "front.svg")
    return best


def _claim(options: Search) -> bool:
    """Make the folder, or see that it is that of this very search; whether it was made."""
    described = {
        "recipe": options.recipe.model_dump(mode="json", exclude={"output", "data_dir", "num_workers"}),
        "search": {name: getattr(options, name) for name in ("objective", "sampler", "lowest", "highest", "weight")}
        | {"groups": list(options.groups)},
    }
    text = yaml.safe_dump(described, sort_keys=False)
    options.folder.mkdir(parents=True, exist_ok=True)
    path = options.folder / "recipe.yaml"
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
        return True
    except FileExistsError:
        if path.read_text(encoding="utf-8") != text:
            raise ValueError(f"{options.folder} holds another search (see {path}): choose another folder") from None
        return False


def _study(options: Search, *, seed: int | None = None) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(str(options.folder / "study.journal")))
    sampler = (optuna.samplers.GPSampler if options.sampler == "gp" else optuna.samplers.TPESampler)(seed=seed)
    directions: list[Literal["maximize", "minimize"]] = (
        ["maximize", "minimize"] if options.objective == "pareto" else ["maximize"]
    )
    pruner = optuna.pruners.MedianPruner(n_startup_trials=5)
    return optuna.create_study(
        study_name="ranks", storage=storage, sampler=sampler, pruner=pruner, directions=directions, load_if_exists=True
    )


def _finished(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def _at_ratios(recipe: Config, task: Task, ratios: Mapping[str, float]) -> lrpet.Plan:
    """Each layer at its ratio of full rank, within the recipe's limits."""
    changes = {**dict.fromkeys(BUDGETS), "keep": 1.0, "plan": None, "overrides": {**recipe.overrides, **ratios}}
    return make_plan(recipe.model_copy(update=changes), task.network, task.example)


def _searched(recipe: Config, task: Task) -> list[str]:
    """The layers whose ranks the recipe leaves open."""
    every = _at_ratios(recipe.model_copy(update={"factorize_all": True}), task, {})
    return [name for name in every.ranks if not any(fnmatchcase(name, pattern) for pattern in recipe.overrides)]


def _groups(names: list[str], patterns: tuple[str, ...]) -> dict[str, str]:
    """{layer name: what its ratio is called}, a pattern or the name."""
    groups = {name: next((p for p in patterns if fnmatchcase(name, p)), name) for name in names}
    if unlike := [pattern for pattern in patterns if pattern not in groups.values()]:
        raise ValueError(
            f"groups names {', '.join(unlike)}, which no layer's name is like that is in no earlier one: "
            f"{', '.join(names)}"
        )
    return groups


def _trained(options: Search, plan: lrpet.Plan, trial: optuna.Trial) -> tuple[float, float]:
    """Validation accuracy of the projected and of the factorised network after a trial's training."""
    folder = options.folder / "trials" / f"{trial.number:05d}"
    shutil.rmtree(folder, ignore_errors=True)  # of a trial with this number that was killed
    config = options.recipe.model_copy(update={"output": folder, "allocate": "uniform"})
    task = Task.of(config)  # the same start and data each time

    def after_epoch(epoch: int, held_out: Score | None) -> None:
        if options.objective != "pareto" and held_out is not None:
            trial.report(held_out.accuracy, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned

    try:
        silent = Console(quiet=True)
        with RunFolder.opened(config, plan) as opened, silent.run(config, plan):
            trained = fit(task.network, plan, config, task, opened, silent, after_epoch=after_epoch)
        device = trained.device
        validation = task.batches(config, task.validation, device, training=False)
        compact = lrpet.factorize(trained.network, trained.plan)
        return score(trained.network.to(device), validation).accuracy, score(compact.to(device), validation).accuracy
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _best(study: optuna.Study, options: Search) -> lrpet.Plan:
    """The best trial's plan; of a front, the most accurate one's."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not complete:
        raise ValueError("no trial was completed: raise trials")
    best = max(complete, key=lambda trial: (trial.values[0], -trial.user_attrs["macs"]))
    return lrpet.Plan.from_dict(best.user_attrs["plan"])


def _save_front(study: optuna.Study, folder: Path) -> None:
    """The plan of every trial that no other beats, as ACCURACY-MACS.json."""
    folder.mkdir(exist_ok=True)
    front = {f"{t.user_attrs['accuracy']:.4f}-{t.user_attrs['macs']}.json": t.user_attrs for t in study.best_trials}
    for file in folder.glob("*.json"):
        if file.name not in front:
            file.unlink(missing_ok=True)
    for name, trial in front.items():
        plan = lrpet.Plan.from_dict(trial["plan"])
        (folder / name).write_text(plan.to_json() + "\n", encoding="utf-8")


def _plot(study: optuna.Study, path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    points = sorted((trial.user_attrs["macs"] / 1e6, 100 * trial.user_attrs["accuracy"]) for trial in complete)
    front = [point for i, point in enumerate(points) if all(point[1] > other[1] for other in points[:i])]
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    axes.plot(*zip(*points, strict=True), "o", alpha=0.5, label="trials")
    axes.plot(*zip(*front, strict=True), ".-", label="none is better with fewer")
    axes.set(xlabel="multiply-adds, M", ylabel="validation accuracy, %")
    axes.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
