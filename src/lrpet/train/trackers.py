"""Experiment trackers of accelerate, such as TensorBoard and Weights & Biases, which get what the metrics get."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType

from lrpet.compact.write import written
from lrpet.train.config import Config

#: Folder of the trackers that write files, in the run folder.
FOLDER = "trackers"
#: The project or experiment under which trackers file the run.
PROJECT = "lrpet"

Track = Callable[..., None]
"""What takes {name: value} and `step=`."""


def check_trackers(names: tuple[str, ...]) -> None:
    """Raise ValueError for a tracker that accelerate does not know, or whose package is not installed."""
    known = [str(kind) for kind in LoggerType if kind != LoggerType.ALL]
    installed = [str(kind) for kind in get_available_trackers()]
    for name in names:
        if name not in known:
            raise ValueError(f"log_with names {name!r}: there are {', '.join(known)}")
        if name not in installed:
            raise ValueError(f"log_with names {name}, which is not installed: pip install {name}, or leave it out")


@contextmanager
def tracking(accelerator: Accelerator, config: Config, folder: Path, *, step: int) -> Iterator[Track]:
    """Start the trackers that `accelerator` has, and yield what logs to all of them.

    A run that is resumed after `step` goes on in the curves of TensorBoard, in place of what they show beyond `step`, and in
    its run of Weights & Biases or Comet. Other trackers begin another run.
    """
    options: dict[str, dict[str, Any]] = {"tensorboard": {"purge_step": step + 1}}
    main = accelerator.is_main_process
    if main and "wandb" in config.log_with:
        place = {"dir": str(folder / FOLDER), "name": folder.name}
        options["wandb"] = {"id": _run_id(folder), "resume": "allow", **place}
    if main and "comet_ml" in config.log_with:
        options["comet_ml"] = {"experiment_key": _run_id(folder), "mode": "get_or_create"}
    accelerator.init_trackers(PROJECT, config=None if step else _flat(config), init_kwargs=options)
    try:
        yield accelerator.log
    finally:
        if main:
            for tracker in accelerator.trackers:
                tracker.finish()


def _run_id(folder: Path) -> str:
    """Return the name of this run at services: 32 random letters and digits, kept in the run folder."""
    path = folder / FOLDER / "id"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        with written(path) as temporary:
            temporary.write_text(uuid.uuid4().hex, encoding="utf-8")
    return path.read_text(encoding="utf-8")


def _flat(config: Config) -> dict[str, str | int | float | bool | None]:
    """Return the options as plain values, which trackers can take: those with parts as JSON."""
    options = config.model_dump(mode="json")
    return {
        name: json.dumps(value) if isinstance(value, (list, dict)) else value
        for name, value in options.items()
        if value is not None
    }
