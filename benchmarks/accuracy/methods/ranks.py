"""LRPET with ranks chosen in other ways: the multiply-adds of the run's plan are divided otherwise among the layers.

Projections come from half of the training on, every five steps or at shrinking intervals. Ranks are chosen at the first one,
by the weights of that moment. Falling ranks are the exception: they are projected from early on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

import lrpet
from benchmarks.accuracy.methods.lrpet import FROM_HALF, LATE, train
from benchmarks.accuracy.run import Cell, Run, alone
from lrpet.train.console import Console

#: The number of trainings in the search, of one epoch each.
TRIALS = 24


def by_energy(run: Run) -> nn.Module:
    """Choose the ranks that keep most, each layer counting by the fraction of its energy that it keeps."""
    return train(run, **LATE, **_macs(run), descent=0.5, allocate="energy")


def by_energy_every_5(run: Run) -> nn.Module:
    """Choose ranks by energy, with a projection every five steps."""
    return train(run, **FROM_HALF, **_macs(run), allocate="energy")


def by_energy_friendly(run: Run) -> nn.Module:
    """Choose ranks by energy, in the multiples that are the default, with a projection every five steps."""
    return train(run, **FROM_HALF, **_macs(run) | {"multiple_of": "auto"}, allocate="energy")


def by_threshold(run: Run) -> nn.Module:
    """Prune the same fraction of energy from every layer."""
    return train(run, **LATE, **_macs(run), descent=0.5, allocate="threshold")


def by_sensitivity(run: Run) -> nn.Module:
    """Choose the ranks that keep most of what the singular values are worth to the loss."""
    return train(run, **LATE, **_macs(run), descent=0.5, allocate="sensitivity")


def falling(run: Run) -> nn.Module:
    """Let ranks fall to the plan's over six tenths of the training, projected every 50 steps; then ever more often."""
    return train(run, **_falling())


def falling_by_energy(run: Run) -> nn.Module:
    """Let ranks fall, the multiply-adds divided anew at every projection to keep most energy."""
    return train(run, **_falling(), **_macs(run), allocate="energy")


def falling_by_threshold(run: Run) -> nn.Module:
    """Let ranks fall, the same fraction of energy pruned from every layer at each projection."""
    return train(run, **_falling(), **_macs(run), allocate="threshold")


def searched(run: Run) -> nn.Module:
    """Take the best ranks of a search over a ratio for each stage's first and second convolutions.

    Its trials are single epochs from the dense network of seed 0. All seeds share its plan, and its cost is not counted.
    """
    plan = lrpet.Plan.from_json((_search(run) / "plan.json").read_text(encoding="utf-8"))
    return train(run, plan, **LATE)


def _search(run: Run) -> Path:
    from lrpet.train.search import Search, search  # only this method needs what searches need

    cell = run.cell
    first = Cell(cell.model, cell.data, "search", cell.keep, cell.epochs, 0)
    folder = run.work / "shared" / first.name
    with alone(folder):
        if not (folder / "plan.json").exists():
            of_first = run.with_seed(0)
            weights = of_first.work / "shared" / f"{first.name}-weights"
            dense = of_first.dense(cell.epochs)
            nothing = lrpet.plan(dense, of_first.task.example, ranks={})
            lrpet.save(lrpet.factorize(dense, nothing), weights, overwrite=True)
            recipe = of_first.config(
                Path("unused"),
                cell.keep,
                {
                    **_macs(run),
                    "epochs": 1,
                    "weights": weights,
                    "lr": 0.05,
                    "every": 50,
                    "every_last": 5,
                    "shrink_from": 0.0,
                    "start": 0.0,
                },
            )
            groups = sorted({_group(name) for name in run.plan.ranks})
            search(Search(recipe, folder, trials=TRIALS, groups=tuple(groups)), console=Console())
    return folder


def _group(name: str) -> str:
    """Return the name with a star for each number: `layer1.0.conv2` is one of `layer1.*.conv2`."""
    parts = name.split(".")
    return ".".join("*" if part.isdigit() else part for part in parts)


def _falling() -> dict[str, Any]:
    return {"every": 50, "every_last": 5, "shrink_from": 0.6, "start": 0.0, "descent": 0.6}


def _macs(run: Run) -> dict[str, Any]:
    fraction = run.plan.macs / run.plan.macs_dense
    return {"keep": None, "macs": fraction, "multiple_of": 1, "unfolding": "channel"}
