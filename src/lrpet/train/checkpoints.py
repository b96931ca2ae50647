"""The latest state of a training, whole on disk, and going on from it."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from lrpet import Projector
from lrpet.compact.write import written_folder
from lrpet.train.average import Average
from lrpet.train.processes import Processes

if TYPE_CHECKING:
    from accelerate import Accelerator

#: What reading a damaged checkpoint, or one of another network, can raise.
UNREADABLE = (SafetensorError, UnpicklingError, RuntimeError, OSError, EOFError, KeyError, TypeError, ValueError)


@dataclass(frozen=True)
class Progress:
    """How far a run has come."""

    epoch: int = 0
    """Epochs done."""
    step: int = 0
    """Steps done of the next one."""
    totals: tuple[float, ...] = (0.0, 0.0, 0.0)
    """What these steps add to the epoch's score."""
    seconds: float = 0.0
    """Wall time that training them took."""
    cpu_seconds: float = 0.0
    """Processor time that training them took; other work on the machine lengthens it less."""

    def advanced(self, seconds: float, cpu_seconds: float) -> Progress:
        """Return the progress after one more epoch."""
        return Progress(self.epoch + 1, seconds=self.seconds + seconds, cpu_seconds=self.cpu_seconds + cpu_seconds)


@dataclass(frozen=True)
class State:
    """What a checkpoint holds of a training, besides its progress."""

    accelerator: Accelerator
    """Keeps the network, the optimizer and the random numbers."""
    projector: Projector
    average: Average | None


class Checkpoints:
    """The folder of a run's checkpoints, of which there is one at a time."""

    def __init__(self, folder: Path, processes: Processes) -> None:
        self.folder, self.processes = folder, processes

    def load(self, state: State) -> Progress:
        """Restore the latest checkpoint, if there is one. Raises ValueError if it is damaged or of another network."""
        latest = max(self.folder.glob("epoch-*"), default=None)
        if latest is None:
            return Progress()
        try:
            plain = json.loads((latest / "run.json").read_text(encoding="utf-8"))
            state.projector.load_state_dict({**plain["projector"], **_warm_starts(latest)})
            if state.average is not None:
                state.average.load(latest)
            state.accelerator.load_state(str(latest))
            return Progress(**{**plain["progress"], "totals": tuple(plain["progress"].get("totals", (0.0,) * 3))})
        except UNREADABLE as error:
            raise ValueError(f"{latest} is damaged, or the checkpoint of another network: {error}") from error

    def save(self, state: State, progress: Progress) -> None:
        """Write the state of everything; the one before it goes only when this one is whole. All processes call."""
        target = self.folder / f"epoch-{progress.epoch:05d}"
        parts = self.folder / f".{target.name}.parts"  # one name for all processes
        if self.processes.main:
            shutil.rmtree(parts, ignore_errors=True)
        self.processes.wait()
        state.accelerator.save_state(str(parts))
        plain = state.projector.state_dict()
        bases = {name: basis.contiguous() for name, basis in plain.pop("bases").items()}  # of the layers it projects
        waits = {"waits": json.dumps(plain.pop("waits"))}
        save_file(bases, parts / f"bases-{self.processes.rank}.safetensors", metadata=waits)
        self.processes.wait()
        if self.processes.main:
            with written_folder(target, overwrite=True) as temporary:
                for part in parts.iterdir():
                    part.replace(temporary / part.name)
                if state.average is not None:
                    state.average.save(temporary)
                text = json.dumps({"progress": asdict(progress), "projector": plain})
                (temporary / "run.json").write_text(text, encoding="utf-8")
            for other in self.folder.iterdir():
                if other != target:
                    shutil.rmtree(other)
        self.processes.wait()


def _warm_starts(checkpoint: Path) -> dict[str, Any]:
    """Read what all processes of the run kept for their next projection, whatever their number is now."""
    bases: dict[str, Any] = {}
    waits: dict[str, Any] = {}
    for path in checkpoint.glob("bases*.safetensors"):
        with safe_open(path, framework="pt") as file:
            bases |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
            waits |= json.loads((file.metadata() or {}).get("waits", "{}"))
    return {"bases": bases} | ({"waits": waits} if waits else {})
