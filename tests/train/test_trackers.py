"""Trackers: what TensorBoard shows is what the metrics say, also of a resumed run; services go on with one run."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from accelerate import tracking as accelerates
from accelerate.utils import LoggerType
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from runs import killed_at, lines, quick, run

pytestmark = pytest.mark.usefixtures("untimed")

#: Projects at steps 4, 8, 12, …; there are 10 steps in an epoch.
OPTIONS: dict[str, Any] = {"model": "resnet8", "every": 4, "start": 0.0}


def curve(folder: Path, name: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder / "trackers" / "lrpet")).Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def later() -> None:
    """Wait for the next second: TensorBoard orders the files of a curve by the second that is in their names."""
    time.sleep(1.1)


def logged(folder: Path, kind: str, name: str) -> list[tuple[int, Any]]:
    return [(line["step"], pytest.approx(line[name], rel=1e-6)) for line in lines(folder) if line["kind"] == kind]


def test_tensorboard_shows_the_metrics_of_a_killed_and_resumed_run(tmp_path: Path) -> None:
    with killed_at(19):
        run(quick(tmp_path / "run", **OPTIONS))
    assert [step for step, _ in curve(tmp_path / "run", "projection/pruned")] == [4, 8, 12, 16]
    later()
    run(quick(tmp_path / "run", **OPTIONS), resume=True)
    later()
    run(quick(tmp_path / "run", **{**OPTIONS, "epochs": 3}), resume=True)
    for kind, name in (("epoch", "train_loss"), ("epoch", "lr"), ("projection", "pruned")):
        assert curve(tmp_path / "run", f"{kind}/{name}") == logged(tmp_path / "run", kind, name)
    assert len(curve(tmp_path / "run", "epoch/train_loss")) == 3


def test_no_tracker_leaves_the_metrics(tmp_path: Path) -> None:
    run(quick(tmp_path / "run", epochs=1, log_with=(), **OPTIONS))
    assert not (tmp_path / "run" / "trackers").exists()
    assert [line["kind"] for line in lines(tmp_path / "run")] == ["projection", "projection", "epoch"]


class Service(accelerates.GeneralTracker):  # type: ignore[misc]
    """Stands for a service on the network."""

    name = "wandb"
    requires_logging_directory = False
    started: list[Service] = []  # noqa: RUF012

    def __init__(self, project: str, **options: Any) -> None:
        super().__init__()
        self.project, self.options = project, options
        self.config: dict[str, Any] = {}
        self.steps: list[int] = []
        self.ended = False

    @property
    def tracker(self) -> None:
        return None

    def start(self) -> None:
        self.started.append(self)

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.config = values

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        assert step is not None
        assert all(isinstance(value, float) for value in values.values())
        self.steps.append(step)

    def finish(self) -> None:
        self.ended = True


def test_a_service_goes_on_with_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(accelerates.LOGGER_TYPE_TO_CLASS, "wandb", Service)
    monkeypatch.setattr(accelerates, "_available_trackers", [LoggerType.WANDB])
    monkeypatch.setattr(Service, "started", [])
    options = {**OPTIONS, "log_with": ("wandb",)}
    with killed_at(19):
        run(quick(tmp_path / "run", **options))
    run(quick(tmp_path / "run", **options), resume=True)
    run(quick(tmp_path / "other", epochs=1, **options))
    first, second, other = Service.started
    assert all(service.ended and service.project == "lrpet" for service in Service.started)
    assert first.options["id"] == second.options["id"] != other.options["id"]
    assert (first.options["resume"], first.options["name"]) == ("allow", "run")
    assert Path(first.options["dir"]) == tmp_path / "run" / "trackers"
    assert first.config["model"] == "resnet8"
    assert not second.config
    assert first.steps == [4, 8, 10, 12, 16]
    assert second.steps == [12, 16, 20, 20]
