"""The checkpoints of a run: the latest two, whole or not at all, and checked before anything is restored from them."""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError

from lrpet.compact.weights import digest
from lrpet.compact.write import storing, written_folder
from lrpet.planning.plain import read_json
from lrpet.train.processes import Processes
from lrpet.train.state import TrainingState, random_state, set_random_state_
from lrpet.train.tree import load_tree, save_tree

#: How many are kept. Should the latest be damaged, the one before it is there.
KEPT = 2
#: A checkpoint's list of files with their digests, which `sha256sum --check` reads as well.
SUMS = "SHA256SUMS"
STATE, RUN = "state.safetensors", "run.json"
#: What a checkpoint of another network can raise.
UNFIT = (SafetensorError, RuntimeError, KeyError, TypeError, ValueError, AttributeError)


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


class Checkpoints:
    """The checkpoints in one folder. Each is a folder of these files.

    state.safetensors       weights, optimizer and loss scale          run.json     progress, and the projector's counts
    process-N.safetensors   random numbers and bases of process N      SHA256SUMS   digests of the other files
    """

    def __init__(self, folder: Path, processes: Processes) -> None:
        self.folder, self.processes = folder, processes

    def all(self) -> list[Path]:
        """Return the checkpoints, the latest first."""
        return sorted(self.folder.glob("epoch-*"), reverse=True)

    def save(self, state: TrainingState, progress: Progress) -> None:
        """Write the state of everything; what is older than the one before it goes when this one is whole. All call."""
        target = self.folder / f"epoch-{progress.epoch:05d}"
        parts = self.folder / f".{target.name}.parts"  # one name for all processes
        if self.processes.main:
            shutil.rmtree(parts, ignore_errors=True)
            parts.mkdir()
        self.processes.wait()
        try:
            self._write(target, parts, state, progress)
        finally:
            if self.processes.main:
                shutil.rmtree(parts, ignore_errors=True)
        if self.processes.main:
            kept = self.all()[:KEPT]
            for other in self.folder.iterdir():
                if other not in kept:
                    shutil.rmtree(other)
        self.processes.wait()

    def _write(self, target: Path, parts: Path, state: TrainingState, progress: Progress) -> None:
        """Write the parts of all processes, and put them together where the first process is."""
        plain = state.projector.state_dict()
        own = {"bases": plain.pop("bases"), "waits": plain.pop("waits"), "random": random_state(_device(state))}
        with storing(parts):
            save_tree(own, parts / f"process-{self.processes.rank}.safetensors")
        self.processes.wait()
        if self.processes.main:
            with written_folder(target, overwrite=True) as temporary:
                for part in parts.iterdir():
                    part.replace(temporary / part.name)
                save_tree(state.shared(), temporary / STATE)
                run = {"progress": asdict(progress), "projector": plain}
                (temporary / RUN).write_text(json.dumps(run), encoding="utf-8")
                sums = [f"{digest(path)}  {path.name}\n" for path in sorted(temporary.iterdir())]
                (temporary / SUMS).write_text("".join(sums), encoding="utf-8")

    def load(self, state: TrainingState) -> Progress:
        """Restore the latest checkpoint that is whole, if there is any; warn if that is not the latest.

        Raises ValueError, and restores nothing, if all are damaged; or if one is whole, and another network's.
        """
        damaged: list[str] = []
        for checkpoint in self.all():
            damage = _damage(checkpoint)
            found = torch.tensor(float(damage is not None), device=_device(state))
            if self.processes.total(found) > 0:  # in any process
                damaged.append(f"{checkpoint} is damaged: {damage or 'another process says so'}")
                continue
            for each in damaged:
                warnings.warn(f"{each}. Going on from {checkpoint}, the one before it", stacklevel=2)
            try:
                return self._restored(checkpoint, state)
            except UNFIT as error:
                raise ValueError(f"{checkpoint} is the checkpoint of another network: {error}") from error
        if damaged:
            raise ValueError(f"{'; '.join(damaged)}. No other checkpoint is left: begin anew in another folder")
        return Progress()

    def _restored(self, checkpoint: Path, state: TrainingState) -> Progress:
        run = read_json((checkpoint / RUN).read_bytes())
        parts = {path.stem: load_tree(path) for path in sorted(checkpoint.glob("process-*.safetensors"))}
        bases, waits = ({k: v for part in parts.values() for k, v in part[key].items()} for key in ("bases", "waits"))
        shared = load_tree(checkpoint / STATE)
        state.projector.load_state_dict({**run["projector"], "bases": bases, "waits": waits})
        state.restore_(shared)
        own = parts.get(f"process-{self.processes.rank}")
        if own is not None:  # a process more than the run had before goes on with its own
            set_random_state_(own["random"], _device(state))
        return Progress(**{**run["progress"], "totals": tuple(run["progress"]["totals"])})


def _damage(checkpoint: Path) -> str | None:
    """Say what is wrong with the files of a checkpoint; None if every digest is right."""
    try:
        lines = [line.split("  ", 1) for line in (checkpoint / SUMS).read_text("utf-8").splitlines()]
        sums = {name: written for written, name in lines}
        missing = {STATE, RUN} - sums.keys()
        wrong = [name for name, written in sums.items() if digest(checkpoint / Path(name).name) != written]
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing (lrpet 0.1 wrote none)"
    except (OSError, ValueError) as error:
        return str(error)
    if missing:
        return f"{SUMS} does not list {', '.join(sorted(missing))}"
    return f"{', '.join(wrong)} changed since written" if wrong else None


def _device(state: TrainingState) -> torch.device:
    return next(state.network.parameters()).device
