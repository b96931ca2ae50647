"""The folder of a run: its files, and that each of them is whole."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from lrpet import Plan, Projector, Report
from lrpet.compact.write import synced, written, written_folder
from lrpet.planning.plain import read_json
from lrpet.train.checkpoints import Checkpoints, Progress
from lrpet.train.config import Config, read_config
from lrpet.train.measure import Score
from lrpet.train.modality import modality_of
from lrpet.train.plans import read_plan
from lrpet.train.processes import Processes
from lrpet.train.state import TrainingState

if TYPE_CHECKING:
    from lrpet.train.trackers import Track

#: Options that may differ between a run and its continuation; `epochs` may rise besides.
FREE = {
    "output", "data_dir", "num_workers", "on_corrupt", "accumulate", "checkpoint_every", "log_with", "spectra", "license",
}  # fmt: skip


class RunFolder:
    """Paths and writers of one run. Made by `RunFolder.opened`."""

    def __init__(self, config: Config, plan: Plan, processes: Processes | None = None) -> None:
        self.path = config.folder
        self.processes = processes or Processes(on_cpu=config.device == "cpu")
        """Those that train; the first of them writes."""
        self.compact = self.path / "compact"
        self.plan = plan
        self._config = config
        self._metrics = self.path / "metrics.jsonl"
        self.checkpoints = Checkpoints(self.path / "checkpoints", self.processes)
        self._ranks: dict[str, int] | None = None  # as last logged
        self._step = 0  # as last logged
        self.corrupt: set[str] = set()
        """The corrupt images that were left out so far, in all processes."""
        self._track: Track | None = None  # from `begin` on

    @staticmethod
    def check(config: Config, *, resume: bool) -> None:
        """Raise FileExistsError or ValueError if the run cannot be started or resumed in its folder."""
        path = config.folder
        if not path.exists():
            return
        if not resume:
            raise FileExistsError(f"{path} exists: continue that run with --resume, or choose another --output")
        if not (path / "config.yaml").is_file():
            raise ValueError(f"{path} is no run folder: it has no config.yaml, so there is nothing to resume")
        old = read_config(path / "config.yaml")
        before, now = (c.model_dump(exclude={*FREE, "epochs"}) for c in (old, config))
        changed = [f"{name} was {before[name]} and is {now[name]}" for name in now if before[name] != now[name]]
        if changed:
            raise ValueError(f"{path} is another run: {'; '.join(changed)}. Resume it with its own options.")
        if config.epochs < old.epochs:
            raise ValueError(
                f"{path} is a run of epochs={old.epochs}, and epochs={config.epochs} is fewer: a run can be resumed with as "
                "many epochs or more"
            )
        if config.epochs > old.epochs and config.descent is not None:
            raise ValueError(
                f"{path} is a run of epochs={old.epochs} whose ranks fall: more would raise them again, so resume it with "
                f"epochs={old.epochs}"
            )

    @classmethod
    @contextmanager
    def opened(cls, config: Config, plan: Plan, processes: Processes | None = None) -> Iterator[RunFolder]:
        """Open the run's folder, and make it if it is not there; if it is, the plan is what the run began with.

        A folder that was made here goes again if the block fails before `begin`.
        """
        folder = cls(config, plan, processes)
        made = folder.processes.main and not folder.path.exists()
        if made:
            with written_folder(folder.path) as temporary:
                (temporary / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
                (temporary / "plan.json").write_text(plan.to_json() + "\n", encoding="utf-8")
                (temporary / "checkpoints").mkdir()
        folder.processes.wait()
        with folder._locked():
            folder.plan = read_plan(folder.path / "plan.json")
            try:
                yield folder
            finally:
                if made and folder._track is None:
                    shutil.rmtree(folder.path)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other runs out of the folder. Raises FileExistsError if one is in it."""
        if not self.processes.main:
            yield
            return
        try:
            with FileLock(self.path / ".lock", timeout=0):
                yield
        except Timeout:
            raise FileExistsError(
                f"{self.path} belongs to a run that is under way: wait for its end, or choose another --output"
            ) from None

    def save_checkpoint(self, state: TrainingState, progress: Progress) -> None:
        """Write the state of everything, after the metrics that led to it. All processes call."""
        if self.processes.main and self._metrics.exists():
            synced(self._metrics)
        self.checkpoints.save(state, progress)

    def begin(self, step: int, *, track: Track) -> None:
        """Begin training, or go on after `step`: from here on the folder stays, with the options of the moment.

        The metrics go on after `step`, since what a killed run logged beyond it happens again. `track` gets what they get.
        """
        kept = [json.dumps(line) for line in self.metrics() if line["step"] <= step]
        self.processes.wait()  # until all have read it
        self._write("metrics.jsonl", "".join(line + "\n" for line in kept))
        self._write("config.yaml", self._config.to_yaml())
        self._step = step
        self.corrupt = {line["image"] for line in map(json.loads, kept) if line["kind"] == "corrupt"}
        self._ranks = next((line["ranks"] for line in map(json.loads, reversed(kept)) if "ranks" in line), None)
        self._track = track

    def log_projection(self, report: Report, *, lr: float) -> None:
        """Log a projection, with its ranks where they are not those of the projection before."""
        layers = {name: round(layer.pruned, 8) for name, layer in report.layers.items()}
        ranks = {name: layer.rank for name, layer in report.layers.items()}
        self._log(
            {
                "kind": "projection",
                "step": report.step,
                "lr": lr,
                "pruned": report.pruned,
                "dead": report.dead,
                "layers": layers,
                **({"ranks": ranks} if ranks != self._ranks else {}),
            }
        )
        self._ranks = ranks

    def log_epoch(
        self,
        progress: Progress,
        projector: Projector,
        trained: Score,
        held_out: Score | None,
        *,
        lr: float,
        rate: float,
    ) -> None:
        """Log an epoch, in which training took `rate` images or tokens per second."""
        modality = modality_of(self._config.data)
        self._log(
            {
                "kind": "epoch",
                "step": projector.steps,
                "epoch": progress.epoch,
                "lr": lr,
                "train_loss": trained.loss,
                **modality.figures("train", trained),
                "val_loss": held_out.loss if held_out else None,
                **modality.figures("val", held_out),
                "seconds": progress.seconds,
                f"{modality.counted}_per_second": rate,
                "projecting_seconds": projector.seconds,
            }
        )

    def metrics(self) -> list[dict[str, Any]]:
        """Read everything logged so far, but for a line that a process died writing; warn of any other that is damaged."""
        if not self._metrics.exists():
            return []
        lines = self._metrics.read_text(encoding="utf-8", errors="replace").splitlines()
        logged = []
        for number, line in enumerate(lines, start=1):
            try:
                logged.append(_logged(line))
            except (ValueError, TypeError, KeyError):
                if number < len(lines):
                    warnings.warn(f"{self._metrics}, line {number} is damaged, and left out from here on", stacklevel=3)
        return logged

    def log_corrupt(self, corrupt: Mapping[str, str]) -> dict[str, str]:
        """Log corrupt images, {image: what its decoder said}, each of them once; return those that are new."""
        new = {image: said for image, said in sorted(corrupt.items()) if image not in self.corrupt}
        for image, said in new.items():
            self._log({"kind": "corrupt", "step": self._step, "image": image, "said": said})
        self.corrupt |= new.keys()
        return new

    def write_plan(self, plan: Plan) -> None:
        """Replace the plan that training began with by the one in force at its end."""
        self._write("plan.json", plan.to_json() + "\n")

    def write_summary(self, summary: dict[str, Any], table: str) -> None:
        """Write summary.txt, a table, and summary.json."""
        self._write("summary.txt", table)
        self._write("summary.json", json.dumps(summary, indent=1) + "\n")

    def summary(self) -> dict[str, Any]:
        """Read the summary."""
        summary: dict[str, Any] = json.loads((self.path / "summary.json").read_text(encoding="utf-8"))
        return summary

    def _write(self, name: str, text: str) -> None:
        if not self.processes.main:
            return
        with written(self.path / name) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def _log(self, values: dict[str, Any]) -> None:
        """Append a line to the metrics; trackers get its fractional numbers."""
        assert self._track is not None
        self._step = values["step"]
        if not self.processes.main:
            return
        with self._metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")
        numbers = {f"{values['kind']}/{name}": value for name, value in values.items() if isinstance(value, float)}
        if numbers:
            self._track(numbers, step=values["step"])


def _logged(line: str) -> dict[str, Any]:
    """Read a line of metrics. Raises ValueError, TypeError or KeyError if it is none."""
    values = read_json(line)
    if type(values["step"]) is not int or not isinstance(values["kind"], str):
        raise ValueError("a line of metrics has a step and a kind")
    if not isinstance(values.get("ranks", {}), dict) or (
        values["kind"] == "corrupt" and type(values["image"]) is not str
    ):
        raise ValueError("ranks go by layers, and images have names")
    return {**values}
