"""Config: everything a training run depends on, as one frozen, validated value."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, field_validator, model_validator

from lrpet.projecting.schedule import Shrinking
from lrpet.train.declaration import read_mapping
from lrpet.train.earlier import RENAMED, translated
from lrpet.train.options import (
    BUDGETS,
    LIMITS,
    OF_FILES,
    OF_IMAGES,
    OF_TEXT,
    RECIPE,
    Compression,
    Machine,
    NetworkAndData,
    Optimisation,
    Run,
)
from lrpet.train.recipes import recipe_at
from lrpet.train.yaml_text import read_yaml, write_yaml

if TYPE_CHECKING:

    class _Options(NetworkAndData, Compression, Optimisation, Machine, Run, BaseModel):
        """The options as fields, with the types that they are declared with."""

else:
    _Options = create_model(
        "_Options",
        __config__=ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False),
        **{
            name: (each.type, Field(each.default, description=each.help, **each.limits))
            for name, each in RECIPE.items()
        },
    )


class Config(_Options):
    """A run, whole: two runs with equal configs on the same machine give the same network.

    Its fields are the options that `lrpet.train.options` declares.
    """

    @field_validator("model_args", "overrides", mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        return read_mapping(value) if isinstance(value, str) else value

    @field_validator("include", "exclude", "log_with", mode="before")
    @classmethod
    def _alone(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        self._check_budget()
        self._check_allocation()
        self._check_projections()
        self._check_schedule()
        self._check_data()
        self._check_loss()
        self._check_teacher()
        self._check_machine()
        return self

    def _check_budget(self) -> None:
        given = [name for name in (*BUDGETS, "plan") if getattr(self, name) is not None]
        if self.method == "dense" and given:
            raise ValueError(f"method dense takes no budget; got {' and '.join(given)}")
        if self.method == "lrpet" and (not given or ({"keep", "plan"} & set(given) and len(given) > 1)):
            raise ValueError(
                "method lrpet takes keep, or a plan, or budgets of macs, params and bytes; "
                f"got {' and '.join(given) or 'none'}"
            )
        limiting = [name for name in LIMITS if getattr(self, name) != RECIPE[name].default]
        if self.plan is not None and limiting:
            raise ValueError(f"a plan says the rank of every layer itself: leave out {', '.join(limiting)}")

    def _check_allocation(self) -> None:
        if self.allocate in ("auto", "uniform"):
            return
        if self.keep is not None or self.plan is not None:
            raise ValueError(
                f"allocate={self.allocate} divides a budget of macs, params or bytes: give one in place of "
                f"{'keep' if self.plan is None else 'the plan'}"
            )
        if self.start == 0 and self.descent is None:
            raise ValueError(
                f"allocate={self.allocate} looks at trained weights, but with start=0 nothing is trained when projections "
                "begin: give a later start, or descent, a fraction of the training by which the ranks are settled"
            )

    def _check_projections(self) -> None:
        if not (self.start >= 0 if isinstance(self.start, int) else 0 <= self.start < 1):
            raise ValueError(
                f"start={self.start} must be a fraction of training, at least 0 and below 1, or a whole number of steps"
            )
        if not isinstance(self.every, str) and not (
            self.every >= 1 if isinstance(self.every, int) else 0 < self.every < 1
        ):
            raise ValueError(
                f"every={self.every} must be a whole number of steps, at least 1, a fraction of training, above 0 and "
                "below 1, or 'epoch'"
            )
        if self.every_last is None and self.shrink_from != RECIPE["shrink_from"].default:
            raise ValueError(f"shrink_from={self.shrink_from} goes with every_last, to which the interval shrinks")
        if self.every_last is not None and isinstance(self.every, int) and self.every_last > self.every:
            raise ValueError(f"every_last={self.every_last} must be at most every={self.every}: intervals shrink")

    def _check_schedule(self) -> None:
        if self.schedule == "one-cycle" and self.warmup_epochs:
            raise ValueError("one-cycle has a warm-up of its own: leave warmup_epochs at 0, or choose another schedule")
        if bool(self.milestones) != (self.schedule == "step"):
            raise ValueError("milestones go with schedule: step, and only with it")
        self.images_at_once(1)
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs={self.warmup_epochs} must be fewer than epochs={self.epochs}")

    def _check_teacher(self) -> None:
        given = [name for name in ("distill", "temperature") if getattr(self, name) != RECIPE[name].default]
        if given and self.teacher is None:
            raise ValueError(f"{' and '.join(given)} go with a teacher: name one, or leave them out")

    def _check_machine(self) -> None:
        if self.cuda_graphs and self.accumulate > 1:
            raise ValueError(
                f"cuda_graphs overwrites the gradients of a step's earlier parts: leave accumulate, now {self.accumulate}, at 1"
            )

    def _check_loss(self) -> None:
        if self.loss == "bce" and self.label_smoothing:
            raise ValueError("loss=bce has targets of 0 and 1: leave label_smoothing out")

    def _check_data(self) -> None:
        text, language = self.data.startswith("text:"), self.model.startswith("hf:")
        if text != language:
            raise ValueError(
                f"model={self.model} cannot be trained on data={self.data}: language models, hf:NAME, go with text, "
                "text:PATH or text:stdlib, and all other networks with images"
            )
        foreign = [name for name in (OF_IMAGES if text else OF_TEXT) if getattr(self, name) != RECIPE[name].default]
        if foreign:
            raise ValueError(
                f"leave out {', '.join(foreign)} for data={self.data}: these options are for "
                f"{'images' if text else 'text'} alone"
            )
        given = [name for name in OF_FILES if getattr(self, name) != RECIPE[name].default]
        if given and ":" not in self.data:
            raise ValueError(
                f"{self.data} lies in memory: leave out {', '.join(given)}, which say how image files are read"
            )

    def projection_schedule(self, steps_per_epoch: int) -> int | float | Shrinking:
        """Return when to project, as `lrpet.Projector` takes it for `every`."""
        every = steps_per_epoch if isinstance(self.every, str) else self.every
        if self.every_last is None:
            return every
        last = min(self.every_last, every) if isinstance(every, int) else self.every_last
        return Shrinking(first=every, last=last, start=self.shrink_from)

    def images_at_once(self, processes: int) -> int:
        """Return how many images or windows one of so many processes takes at once.

        Raises ValueError if they cannot be divided so.
        """
        if self.batch_size % (processes * self.accumulate):
            raise ValueError(
                f"batch_size={self.batch_size} cannot be divided into {self.accumulate} parts in each of {processes} "
                f"processes: choose a multiple of {processes * self.accumulate}, or another number to accumulate"
            )
        return self.batch_size // (processes * self.accumulate)

    @property
    def folder(self) -> Path:
        """The run folder."""
        if self.output is not None:
            return self.output
        name = "-".join([self.model, self.data, self.method, str(self.seed)])
        return Path("runs") / "".join(c if c.isalnum() or c in "-_." else "_" for c in name)

    def to_yaml(self) -> str:
        """Return this config as YAML, which `read_config` reads back."""
        return write_yaml(self.model_dump(mode="json"))


def make_config(values: Mapping[str, Any]) -> Config:
    """Return a config of `values`; the rest are defaults.

    Raises ValueError that names each bad option and says what it takes.
    """
    try:
        return Config.model_validate(dict(values))
    except ValidationError as error:
        raise ValueError("\n".join(_explain(detail) for detail in error.errors())) from None


def read_config(path: str | os.PathLike[str], overrides: Mapping[str, Any] | None = None) -> Config:
    """Return the config in a YAML file, with `overrides` over it. Names of lrpet 0.1.0 are understood in the file.

    A path that is not there may name a recipe that comes with lrpet, see `recipe_at`.

    Raises FileNotFoundError if there is no file, or ValueError as `make_config` does.
    """
    path = recipe_at(Path(path))
    try:
        values = read_yaml(path.read_text(encoding="utf-8")) or {}
    except ValueError as error:
        raise ValueError(f"{path} is not YAML: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold options as 'name: value' lines, not a {type(values).__name__}")
    return make_config({**translated(values), **(overrides or {})})


def _explain(detail: Any) -> str:
    name = ".".join(str(part) for part in detail["loc"][:1])
    if detail["type"] == "extra_forbidden":
        hint = f"{name} is called {RENAMED[name]} now" if name in RENAMED else f"the options are {', '.join(RECIPE)}"
        return f"there is no option {name!r}; {hint}"
    if not name:
        return str(detail["msg"]).removeprefix("Value error, ")
    return f"{name}={detail['input']!r}: {detail['msg'][:1].lower()}{detail['msg'][1:]}"
