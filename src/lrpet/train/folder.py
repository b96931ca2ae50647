"""The folder of a run: its files, and that each of them is whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from lrpet import Plan, Projector, Report
from lrpet.compact.write import written_folder
from lrpet.train.config import Config, read_config
from lrpet.train.measure import Score

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch.utils.tensorboard import SummaryWriter

#: Options that may differ between a run and its continuation.
FREE = {"output", "data_dir", "num_workers", "checkpoint_every"}


#: What reading a damaged checkpoint, or one of another network, can raise.
UNREADABLE = (SafetensorError, UnpicklingError, RuntimeError, OSError, EOFError, KeyError, TypeError, ValueError)


@dataclass(frozen=True)
class Progress:
    """How far a run has come."""

    epoch: int = 0
    """Epochs done."""
    seconds: float = 0.0
    """Wall time of their training."""
    cpu_seconds: float = 0.0
    """Processor time of it, which other work on the machine lengthens less."""

    def advanced(self, seconds: float, cpu_seconds: float) -> Progress:
        """One epoch further."""
        return Progress(self.epoch + 1, self.seconds + seconds, self.cpu_seconds + cpu_seconds)


class RunFolder:
    """Paths and writers of one run. Made by `RunFolder.opened`."""

    def __init__(self, path: Path, plan: Plan) -> None:
        self.path = path
        self.compact = path / "compact"
        self.plan = plan
        self._metrics = path / "metrics.jsonl"
        self._checkpoints = path / "checkpoints"
        self._ranks: dict[str, int] | None = None  # as last logged
        self._tensorboard: SummaryWriter | None = None

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
        before, now = (c.model_dump(exclude=FREE) for c in (read_config(path / "config.yaml"), config))
        changed = [f"{name} was {before[name]} and is {now[name]}" for name in now if before[name] != now[name]]
        if changed:
            raise ValueError(f"{path} is another run: {'; '.join(changed)}. Resume it with its own options.")

    @classmethod
    @contextmanager
    def opened(cls, config: Config, plan: Plan) -> Iterator[RunFolder]:
        """The run's folder, made if it is not there; if it is, `plan` is what the run began with."""
        folder = cls(config.folder, plan)
        if not folder.path.exists():
            with written_folder(folder.path) as temporary:
                (temporary / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
                (temporary / "plan.json").write_text(plan.to_json() + "\n", encoding="utf-8")
                (temporary / "checkpoints").mkdir()
        folder.plan = Plan.from_json((folder.path / "plan.json").read_text(encoding="utf-8"))
        try:
            yield folder
        finally:
            if folder._tensorboard is not None:
                folder._tensorboard.close()

    def save_checkpoint(self, accelerator: Accelerator, projector: Projector, progress: Progress) -> None:
        """Write the state of everything; the one before it goes only when this one is whole."""
        target = self._checkpoints / f"epoch-{progress.epoch:05d}"
        with written_folder(target, overwrite=True) as temporary:
            accelerator.save_state(str(temporary))
            plain = projector.state_dict()
            save_file(
                {name: basis.contiguous() for name, basis in plain.pop("bases").items()},
                temporary / "bases.safetensors",
            )
            state = {"progress": asdict(progress), "projector": plain}
            (temporary / "run.json").write_text(json.dumps(state), encoding="utf-8")
        for other in self._checkpoints.iterdir():
            if other != target:
                shutil.rmtree(other)

    def load_checkpoint(self, accelerator: Accelerator, projector: Projector) -> Progress:
        """Restore the latest checkpoint, if there is one. Raises ValueError if it is damaged or of another network."""
        latest = max(self._checkpoints.glob("epoch-*"), default=None)
        progress = Progress()
        if latest is not None:
            try:
                state = json.loads((latest / "run.json").read_text(encoding="utf-8"))
                projector.load_state_dict({**state["projector"], "bases": load_file(latest / "bases.safetensors")})
                accelerator.load_state(str(latest))
                progress = Progress(**state["progress"])
            except UNREADABLE as error:
                raise ValueError(f"{latest} is damaged, or the checkpoint of another network: {error}") from error
        self._open_metrics(projector.steps)
        return progress

    def log_projection(self, report: Report, *, lr: float) -> None:
        """A line in the metrics, and curves. The ranks are in it where they are not those of the projection before."""
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
        self, progress: Progress, projector: Projector, trained: Score, held_out: Score | None, *, lr: float
    ) -> None:
        """A line in the metrics, and curves."""
        self._log(
            {
                "kind": "epoch",
                "step": projector.steps,
                "epoch": progress.epoch,
                "lr": lr,
                "train_loss": trained.loss,
                "train_accuracy": trained.accuracy,
                "val_loss": held_out.loss if held_out else None,
                "val_accuracy": held_out.accuracy if held_out else None,
                "seconds": progress.seconds,
                "projecting_seconds": projector.seconds,
            }
        )

    def metrics(self) -> list[dict[str, Any]]:
        """Everything logged so far."""
        return [json.loads(line) for line in self._metrics.read_text(encoding="utf-8").splitlines()]

    def write_plan(self, plan: Plan) -> None:
        """Replace the plan that training began with by the one in force at its end."""
        temporary = self.path / ".plan.json"
        temporary.write_text(plan.to_json() + "\n", encoding="utf-8")
        temporary.replace(self.path / "plan.json")

    def write_summary(self, summary: dict[str, Any], table: str) -> None:
        """Write summary.json, and the same as a table in summary.txt."""
        for name, text in (("summary.txt", table), ("summary.json", json.dumps(summary, indent=1) + "\n")):
            temporary = self.path / f".{name}"
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(self.path / name)

    def _open_metrics(self, step: int) -> None:
        """Start the metrics, or continue them after `step`: what a killed run logged beyond it happens again."""
        from torch.utils.tensorboard import SummaryWriter

        lines = self._metrics.read_text(encoding="utf-8").splitlines() if self._metrics.exists() else []
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
        self._metrics.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        self._ranks = next((line["ranks"] for line in map(json.loads, reversed(kept)) if "ranks" in line), None)
        self._tensorboard = SummaryWriter(str(self.path / "tensorboard"), purge_step=step + 1)

    def _log(self, values: dict[str, Any]) -> None:
        with self._metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")
        assert self._tensorboard is not None
        for name, value in values.items():
            if isinstance(value, float):
                self._tensorboard.add_scalar(f"{values['kind']}/{name}", value, values["step"])
