"""The study of a search, as Optuna keeps it: making it, reading it, and what is left of it as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

import lrpet
from lrpet.compact.write import written
from lrpet.train.storage import taken_again


def open_study(
    storage: BaseStorage,
    name: str,
    *,
    sampler: Literal["tpe", "gp"],
    objectives: Literal[1, 2],
    seed: int | None = None,
) -> tuple[optuna.Study, bool]:
    """Open a study of this name, or make it; return also whether it was made.

    The sampler of a study that was made here has the seed: if others had it too, all would choose equal trials. With two
    objectives, the first is to rise and the second to fall.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    directions: list[Literal["maximize", "minimize"]] = ["maximize", "minimize"]
    kind: Any = optuna.samplers.GPSampler if sampler == "gp" else optuna.samplers.TPESampler
    pruner = optuna.pruners.MedianPruner(n_startup_trials=5)
    try:
        study = optuna.create_study(
            study_name=name,
            storage=storage,
            sampler=kind(seed=seed),
            pruner=pruner,
            directions=directions[:objectives],
        )
        return study, True
    except optuna.exceptions.DuplicatedStudyError:
        return optuna.load_study(study_name=name, storage=storage, sampler=kind(), pruner=pruner), False


def take_again(study: optuna.Study, number: int) -> None:
    """Put a trial that this process gives up into the queue again."""
    taken_again()(study, study.get_trials()[number])


def is_taken(study: optuna.Study, number: int) -> bool:
    """Tell whether a trial that this process works on counts as lost."""
    return study.get_trials(deepcopy=False)[number].state != TrialState.RUNNING


def is_enough(study: optuna.Study, trials: int) -> bool:
    """Tell whether as many trials have ended as were asked for, and no lost one waits to be taken again."""
    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    return len(finished(study)) >= trials and not waiting


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that were completed or pruned."""
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def best(study: optuna.Study) -> lrpet.Plan:
    """Return the best trial's plan, and that of the most accurate trial where there are two objectives.

    Raises ValueError if no trial was completed, or if one is damaged.
    """
    complete = _complete(study)
    if not complete:
        raise ValueError("no trial was completed: raise trials")
    first = max(complete, key=lambda trial: (trial.values[0], -trial.user_attrs["macs"]))
    return lrpet.Plan.from_dict(first.user_attrs["plan"])


def save_front(study: optuna.Study, folder: Path) -> None:
    """Save the plan of every trial that no other beats, as ACCURACY-MACS.json."""
    folder.mkdir(exist_ok=True)
    front = {f"{t.user_attrs['accuracy']:.4f}-{t.user_attrs['macs']}.json": t.user_attrs for t in study.best_trials}
    for file in folder.glob("*.json"):
        if file.name not in front:
            file.unlink(missing_ok=True)
    for name, trial in front.items():
        save_plan(lrpet.Plan.from_dict(trial["plan"]), folder / name)


def save_plan(plan: lrpet.Plan, path: Path) -> None:
    """Save a plan as a file that appears whole."""
    with written(path) as temporary:
        temporary.write_text(plan.to_json() + "\n", encoding="utf-8")


def plot(study: optuna.Study, path: Path) -> None:
    """Draw accuracy against multiply-adds of all trials, as SVG."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    points = sorted((t.user_attrs["macs"] / 1e6, 100 * t.user_attrs["accuracy"]) for t in _complete(study))
    front = [point for i, point in enumerate(points) if all(point[1] > other[1] for other in points[:i])]
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    axes.plot(*zip(*points, strict=True), "o", alpha=0.5, label="trials")
    axes.plot(*zip(*front, strict=True), ".-", label="none is better with fewer")
    axes.set(xlabel="multiply-adds, M", ylabel="validation accuracy, %")
    axes.legend(frameon=False)
    with written(path) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})
    plt.close(figure)


def _complete(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that were completed; raise ValueError if one is not as it was written."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    for trial in trials:
        given = trial.user_attrs
        numbers = [*(trial.values or ()), given.get("accuracy"), given.get("macs")]
        if len(numbers) != len(study.directions) + 2 or not all(isinstance(number, int | float) for number in numbers):
            raise ValueError(
                f"trial {trial.number} of the study is damaged: it has no number for each of its objectives, its accuracy and "
                "its multiply-adds. Put a copy of the study back, or search in another folder"
            )
    return trials
