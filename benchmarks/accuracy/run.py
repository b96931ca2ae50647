"""What every method works with: a fresh network, its plan, and one training loop."""

from __future__ import annotations

import copy
import fcntl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

import lrpet
from lrpet.train.config import Config, make_config
from lrpet.train.console import Console
from lrpet.train.fit import Hooks, fit
from lrpet.train.folder import RunFolder
from lrpet.train.task import Task, make_plan

BeforeStep = Callable[[lrpet.Projector, torch.optim.Optimizer], None]

#: The options that are the same for every method, unless the command line says otherwise.
RECIPE: dict[str, Any] = {
    "batch_size": 128,
    "optimizer": "sgd",
    "lr": 0.2,
    "momentum": 0.9,
    "nesterov": True,
    "weight_decay": 5e-4,
    "schedule": "one-cycle",
    "holdout": 0.1,
    "spectra": False,
    "log_with": (),
}
#: Networks that a file among the recipes describes, with the options of their training.
DESCRIBED = {"vit": Path(__file__).parents[2] / "recipes" / "cifar10-vit-cpu.yaml"}
#: What a cell says itself, in place of the file.
SAID_BY_CELL = ("data", "method", "params", "epochs")


@dataclass(frozen=True)
class Cell:
    """One result of a grid."""

    model: str
    """That of the trainer, or a name in `DESCRIBED`."""
    data: str
    method: str
    keep: float | None
    """Fraction of every layer's rank; None for the dense network."""
    epochs: int
    seed: int

    @property
    def name(self) -> str:
        """The name of its result, and of its working folder."""
        parts = (self.model, self.data, self.method, self.keep, self.epochs, self.seed)
        return "-".join(str(part).replace(":", "_").replace("/", "_") for part in parts if part is not None)


@dataclass(frozen=True)
class Phase:
    """One finished training of a run."""

    config: Config
    metrics: list[dict[str, Any]]
    seconds: Mapping[str, float]
    plan: lrpet.Plan
    """The plan in force at the end of the training."""


class Run:
    """A cell being computed. Every training has a folder below `work`, so that a killed run goes on where it was."""

    def __init__(self, cell: Cell, options: Mapping[str, Any], work: Path) -> None:
        self.cell, self.work, self._given = cell, work, options
        network = {"model": cell.model, **described(cell.model)}
        self.options = {**RECIPE, **network, "data": cell.data, "seed": cell.seed, **options}
        self.task = Task.of(self.config("", cell.keep, {}))
        self.phases: list[Phase] = []

    @property
    def plan(self) -> lrpet.Plan:
        """The low-rank plan, whose multiply-adds are every method's budget."""
        return self.task.plan

    def plan_by_energy(self, network: nn.Module, **options: Any) -> lrpet.Plan:
        """Divide the multiply-adds of the run's plan by the energies of `network`, at any ranks."""
        return self.divided(network, "energy", **options)

    def divided(
        self, network: nn.Module, allocate: Any, *, unfolding: str = "channel", rectify: bool = True
    ) -> lrpet.Plan:
        """Divide the multiply-adds of the run's plan as `allocate` says, see `lrpet.plan`, by the weights of `network`."""
        fraction = self.plan.macs / self.plan.macs_dense
        options: dict[str, Any] = {"allocate": allocate, "unfolding": unfolding, "rectify": rectify, "multiple_of": 1}
        return lrpet.plan(network, self.task.example, macs=fraction, **options).settled()

    @property
    def retraining_epochs(self) -> int:
        """The epochs that follow compression in methods that train a dense network first: two in five, at least one."""
        return max(1, round(0.4 * self.cell.epochs))

    def with_seed(self, seed: int) -> Run:
        """Return the run of this cell with another seed."""
        return Run(replace(self.cell, seed=seed), self._given, self.work)

    def network(self) -> nn.Module:
        """Return a fresh full-size network with the same weights each time."""
        return copy.deepcopy(self.task.network)

    def dense(self, epochs: int) -> nn.Module:
        """Train the dense network for so many epochs; runs that differ only in their method share its training.

        A training of all the cell's epochs goes on from that of `dense_part` for half of them.
        """
        cell = self.cell
        folder = Path("shared") / Cell(cell.model, cell.data, "dense", None, epochs, cell.seed).name
        if epochs < cell.epochs or epochs < 2:
            return self._fit(folder, self.network(), None, Hooks(), {"epochs": epochs})
        half = epochs // 2
        return self._fit(folder, self.dense_part(half), None, Hooks(first=half), {})

    def dense_part(self, epochs: int, **changes: Any) -> nn.Module:
        """Train the dense network for the first so many epochs of the cell's; runs that differ in their method share it.

        It can be trained with `changes` to the options.
        """
        cell = self.cell
        said = "".join(f"-{name}-{value}" for name, value in changes.items())
        folder = Cell(cell.model, cell.data, f"dense-{epochs}-of{said}", None, cell.epochs, cell.seed).name
        return self._fit(Path("shared") / folder, self.network(), None, Hooks(last=epochs), changes)

    def fit(
        self,
        phase: str,
        network: nn.Module,
        *,
        plan: lrpet.Plan | None = None,
        before_step: BeforeStep | None = None,
        wrapped: Callable[[torch.optim.Optimizer], torch.optim.Optimizer] = lambda optimizer: optimizer,
        first: int = 0,
        last: int | None = None,
        **changes: Any,
    ) -> nn.Module:
        """Train `network`, projecting as `plan` says, with these changes to the options.

        Changes that say how a budget is divided (`allocate`) make a plan of their own. With `first` and `last` it is a part
        of the training, from one epoch to another.
        """
        hooks = Hooks(before_step=before_step, wrapped=wrapped, first=first, last=last)
        return self._fit(Path(self.cell.name) / phase, network, plan, hooks, changes)

    def _fit(
        self,
        folder: Path,
        network: nn.Module,
        plan: lrpet.Plan | None,
        hooks: Hooks,
        changes: Mapping[str, Any],
    ) -> nn.Module:
        config = self.config(folder, self.cell.keep if plan is not None else None, changes)
        if "allocate" in changes:
            plan = make_plan(config, network, self.task.example)
        plan = plan or lrpet.plan(network, self.task.example, ranks={})
        console = Console()
        with alone(config.folder):
            RunFolder.check(config, resume=True)
            with RunFolder.opened(config, plan) as opened, console.run(config, plan):
                task = replace(self.task, config=config, network=network, plan=plan)
                trained = fit(task, opened, console, hooks=hooks)
                self.phases.append(Phase(config, opened.metrics(), trained.seconds, trained.plan))
        return trained.network

    def config(self, folder: str | Path, keep: float | None, changes: Mapping[str, Any]) -> Config:
        """Return the configuration of a training in `folder` below `work`, which is dense if `keep` is None."""
        method = "dense" if keep is None else "lrpet"
        values = {"epochs": self.cell.epochs, "method": method, "keep": keep, "output": self.work / folder}
        return make_config({**self.options, **values, **changes})


def described(name: str) -> dict[str, Any]:
    """Return the network and its options, if a file describes it."""
    if name not in DESCRIBED:
        return {}
    options: dict[str, Any] = yaml.safe_load(DESCRIBED[name].read_text(encoding="utf-8"))
    return {key: value for key, value in options.items() if key not in SAID_BY_CELL}


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Let no other process work in `folder` inside: one that wants to waits."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".{folder.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
