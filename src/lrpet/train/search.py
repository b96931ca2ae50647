"""Searching for ranks: short trainings from one start, each with other ranks, chosen by Optuna.

The study lives in a file that processes share (Optuna's journal), or in a database that machines share, each with a folder of
its own. A killed search goes on from it, and the trials of lost processes are taken again. A search that one process ran
through chooses its trials again, by the recipe's seed. In the folder:

    study.journal   every trial, without a database          front.svg   accuracy against multiply-adds of all trials
    trials/         run folders of trials under way          plan.json   the best plan, for `lrpet train --plan`
    recipe.yaml     what is trained, and how it is searched  front/      with "pareto", the plan of each trial on the front
    alive/          signs of life of the trials under way
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

import optuna
import torch
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial

import lrpet
from lrpet.train import claim
from lrpet.train import study as studies
from lrpet.train.config import Config
from lrpet.train.console import Console
from lrpet.train.fit import Hooks, fit
from lrpet.train.folder import RunFolder
from lrpet.train.measure import Score, score
from lrpet.train.options import BUDGETS, OPTIONS
from lrpet.train.preemption import PreemptedError
from lrpet.train.storage import storage_of
from lrpet.train.task import Task, make_plan

#: "budget": every trial has the recipe's budget, the ratios say how the layers share it; accuracy decides. "weighted": the
#: method's authors' −accuracy(projected) − accuracy(factorised) + λ·(multiply-adds compact / dense). "pareto": accuracy against
#: multiply-adds, both.
Objective = Literal["budget", "weighted", "pareto"]


@dataclass(frozen=True)
class Search:
    """What is searched, and how."""

    recipe: Config
    """What each trial trains, with few epochs. "budget" meets its budget; with the other objectives, any budget will do."""
    folder: Path
    """Where the best plan is left and, without a database, the search is kept."""
    trials: int = OPTIONS["trials"].default
    """Number of trials in all, with those of other processes and of earlier times."""
    objective: Objective = OPTIONS["objective"].default
    """What is sought."""
    sampler: Literal["tpe", "gp"] = OPTIONS["sampler"].default
    """The sampler of Optuna that chooses trials."""
    lowest: float = OPTIONS["lowest"].default
    """Lowest ratio of a layer: of its rank or, with "budget", of its share in relation to other layers'."""
    highest: float = OPTIONS["highest"].default
    """Highest ratio of a layer."""
    weight: float = OPTIONS["weight"].default
    """λ of "weighted"."""
    groups: tuple[str, ...] = OPTIONS["groups"].default
    """Name patterns: layers that match one share a ratio, and each layer that matches none has its own."""
    storage: str | None = OPTIONS["storage"].default
    """The URL of a database that workers with folders of their own share the study in."""
    study: str | None = OPTIONS["study"].default
    """The name by which they join the study."""

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise ValueError(f"trials={self.trials} must be at least 1")
        if not 0 < self.lowest < self.highest <= 1:
            raise ValueError(
                f"ratios from lowest={self.lowest} to highest={self.highest} must rise, above 0 and up to 1"
            )
        if self.recipe.method != "lrpet" or self.recipe.holdout == 0:
            raise ValueError(
                "a search needs a recipe of method lrpet, and held-out data to judge trials by: set holdout"
            )
        if self.recipe.allocate not in ("auto", "uniform"):
            raise ValueError(
                f"a search finds the ranks itself: leave allocate={self.recipe.allocate} out of its recipe"
            )
        budgets = [name for name in BUDGETS if name != "keep" and getattr(self.recipe, name) is not None]
        if self.objective == "budget" and not budgets:
            raise ValueError("objective=budget needs a recipe with macs, params or bytes, which every trial meets")
        if (self.storage is None) != (self.study is None):
            raise ValueError(
                "storage and study go together: the URL of a database, and the name by which its workers join one study"
            )

    def described(self) -> dict[str, dict[str, Any]]:
        """Return what must be equal in all processes of a search, as plain values."""
        recipe = self.recipe.model_dump(mode="json", exclude={"output", "data_dir", "num_workers", "log_with"})
        names = ("objective", "sampler", "lowest", "highest", "weight", "study")
        how = {name: getattr(self, name) for name in names if name != "study" or self.study}
        return {"recipe": recipe, "search": how | {"groups": list(self.groups)}}


def search(options: Search, *, console: Console | None = None) -> lrpet.Plan:
    """Run trials until there are as many as asked for; return the best plan, which is also in the folder.

    Raises ValueError if the folder or study is that of another search, if the recipe does not fit the data or network, or if
    the database does not answer; ImportError if its driver is missing.
    """
    console = console or Console(quiet=True)
    claim.check_folder(options.folder, options.described())
    task = Task.of(options.recipe)
    group_of = _groups(_searched(task), options.groups)
    study = _joined(options, group_of)

    _work(options, task, group_of, study, console)
    best = studies.best(study)
    studies.save_plan(best, options.folder / "plan.json")
    if options.objective == "pareto":
        studies.save_front(study, options.folder / "front")
    studies.plot(study, options.folder / "front.svg")
    return best


def _work(options: Search, task: Task, group_of: Mapping[str, str], study: optuna.Study, console: Console) -> None:
    """Run trials until there are enough."""
    taken: list[int] = []

    def tried(trial: optuna.Trial) -> float | tuple[float, float]:
        try:
            return _tried(options, task, group_of, trial, console)
        except (KeyboardInterrupt, PreemptedError) as told:
            studies.take_again(study, trial.number)
            if isinstance(told, KeyboardInterrupt):
                raise
            raise PreemptedError("told to stop; the same command goes on with the search") from None
        finally:
            if studies.is_taken(study, trial.number):
                taken.append(trial.number)

    def enough(study: optuna.Study, _: FrozenTrial) -> None:
        if studies.is_enough(study, options.trials):
            study.stop()

    while not studies.is_enough(study, options.trials):
        try:
            study.optimize(tried, callbacks=[enough])
        except (ValueError, UpdateFinishedTrialError):  # what Optuna raises for a trial that is another's by now
            if not taken:
                raise
            console.rich.print(f"trial {taken.pop()} was given to another process: too long nothing was heard of it")


def open_study(options: Search) -> tuple[optuna.Study, bool]:
    """Open the study of a search, or make it; return also whether it was made."""
    return studies.open_study(
        storage_of(options.folder, options.storage),
        options.study or "ranks",
        sampler=options.sampler,
        objectives=2 if options.objective == "pareto" else 1,
        seed=options.recipe.seed,
    )


def _joined(options: Search, group_of: Mapping[str, str]) -> optuna.Study:
    """Open the study, which says what is searched as soon as it has the first trial that "budget" begins with."""
    described = options.described()
    study, made = open_study(options)
    if made or not claim.is_marked(study):
        if options.objective == "budget":
            # One ratio everywhere, to begin with: nothing worse is ever returned.
            study.enqueue_trial(dict.fromkeys(group_of.values(), options.highest), skip_if_exists=True)
        claim.mark_study(study, described)
    claim.check_study(study, described)
    claim.mark_folder(options.folder, described)
    return study


def _tried(
    options: Search, task: Task, group_of: Mapping[str, str], trial: optuna.Trial, console: Console
) -> float | tuple[float, float]:
    """Train at the ratios that the trial suggests, and return what is to be optimised."""
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


def _at_ratios(recipe: Config, task: Task, ratios: Mapping[str, float]) -> lrpet.Plan:
    """Plan each layer at its ratio of full rank, within the recipe's limits."""
    fractions = {name: ratio for name, ratio in ratios.items() if ratio < 1}  # the others keep their full rank
    changes = {**dict.fromkeys(BUDGETS), "keep": 1.0, "plan": None, "overrides": {**recipe.overrides, **fractions}}
    return make_plan(recipe.model_copy(update=changes), task.network, task.example)


def _searched(task: Task) -> list[str]:
    """List the layers whose ranks the recipe leaves open."""
    recipe = task.config
    every = _at_ratios(recipe.model_copy(update={"factorize_all": True}), task, {})
    return [name for name in every.ranks if not any(fnmatchcase(name, pattern) for pattern in recipe.overrides)]


def _groups(names: list[str], patterns: tuple[str, ...]) -> dict[str, str]:
    """Return {layer name: what its ratio is called}, a pattern or the name."""
    groups = {name: next((p for p in patterns if fnmatchcase(name, p)), name) for name in names}
    if unmatched := [pattern for pattern in patterns if pattern not in groups.values()]:
        raise ValueError(
            f"groups names {', '.join(unmatched)}, which matches no layer that an earlier pattern has not taken: "
            f"{', '.join(names)}"
        )
    return groups


def _trained(options: Search, plan: lrpet.Plan, trial: optuna.Trial) -> tuple[float, float]:
    """Train a trial; return the validation accuracy of its projected and of its factorised network."""
    folder = options.folder / "trials" / f"{trial.number:05d}"
    shutil.rmtree(folder, ignore_errors=True)  # of a trial with this number that was killed
    # Optuna keeps what becomes of a trial, so no tracker is told.
    config = options.recipe.model_copy(update={"output": folder, "allocate": "uniform", "log_with": ()})
    task = replace(Task.of(config), plan=plan)  # one start and one set of data for all

    def after_epoch(epoch: int, held_out: Score | None) -> None:
        if options.objective != "pareto" and held_out is not None:
            trial.report(held_out.accuracy, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned

    try:
        silent = Console(quiet=True)
        with RunFolder.opened(config, plan) as opened, silent.run(config, plan):
            trained = fit(task, opened, silent, hooks=Hooks(after_epoch=after_epoch))
        device = trained.device
        validation = task.batches(task.validation, device, training=False)
        compact = lrpet.factorize(trained.network, trained.plan)
        projected, factorised = (
            score(network.to(device), validation, forward=task.modality.logits).accuracy
            for network in (trained.network, compact)
        )
        return projected, factorised
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
