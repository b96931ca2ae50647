"""The study of a search, as Optuna keeps it: making it, reading it, and what is left of it as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

import lrpet
from lrpet.compact.write import written


def open_study(
    folder: Path, *, sampler: Literal["tpe", "gp"], objectives: Literal[1, 2], seed: int | None = None
) -> optuna.Study:
    """Open the study in `folder`, or make it; of two objectives the first is to rise, and the second to fall."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    directions: list[Literal["maximize", "minimize"]] = ["maximize", "minimize"]
    kind: Any = optuna.samplers.GPSampler if sampler == "gp" else optuna.samplers.TPESampler
    return optuna.create_study(
        study_name="ranks",
        storage=JournalStorage(JournalFileBackend(str(folder / "study.journal"))),
        sampler=kind(seed=seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=5),
        directions=directions[:objectives],
        load_if_exists=True,
    )


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that were completed or pruned."""
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def best(study: optuna.Study) -> lrpet.Plan:
    """Return the best trial's plan, and that of the most accurate trial where there are two objectives.

    Raises ValueError if no trial was completed.
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
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
