"""What a run folder holds, as the report reads it; a run that is under way, or that was killed, has less."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lrpet.latency.results import Bench
from lrpet.latency.table import LatencyTable
from lrpet.planning.plan import Plan
from lrpet.report.spectra import Spectra

#: Files that are read where a run's folder has them: what `lrpet bench --json` and `lrpet profile-latency` write.
BENCH, LATENCY = "bench.json", "latency.json"


@dataclass(frozen=True)
class Run:
    """One run, read from its folder."""

    folder: Path
    name: str
    config: Mapping[str, Any]
    plan: Plan
    epochs: list[dict[str, Any]]
    """What was logged after each epoch."""
    projections: list[dict[str, Any]]
    """What was logged at each projection."""
    summary: Mapping[str, Any] = field(default_factory=dict)
    """What came out; empty where the run has not ended."""
    spectra: Spectra | None = None
    bench: Bench | None = None
    table: LatencyTable | None = None

    @classmethod
    def read(cls, folder: str | os.PathLike[str], *, name: str | None = None) -> Run:
        """Read a run's folder; `name` is what the page calls it, the folder's own name if None.

        Raises FileNotFoundError if it is no run folder, and ValueError if a file in it is damaged.
        """
        path = Path(folder)
        for needed in ("config.yaml", "plan.json"):
            if not (path / needed).is_file():
                raise FileNotFoundError(f"{path} is no folder of a run: lrpet train leaves {needed} in one")
        logged = _lines(path / "metrics.jsonl")
        return cls(
            folder=path,
            name=name or path.resolve().name,
            config=_config(path / "config.yaml"),
            plan=Plan.from_json((path / "plan.json").read_text(encoding="utf-8")),
            epochs=[line for line in logged if line.get("kind") == "epoch"],
            projections=[line for line in logged if line.get("kind") == "projection"],
            summary=_summary(path / "summary.json"),
            spectra=Spectra.read(path / "spectra"),
            bench=Bench.load(path / BENCH) if (path / BENCH).is_file() else None,
            table=LatencyTable.load(path / LATENCY) if (path / LATENCY).is_file() else None,
        )

    @property
    def is_text(self) -> bool:
        """Whether a language model was trained."""
        return str(self.config["data"]).startswith("text:")

    @property
    def is_dense(self) -> bool:
        """Whether the dense network was trained as it is."""
        return bool(self.config.get("method") == "dense")

    @property
    def kind(self) -> str:
        """What the run's score is called: the accuracy of images, and the perplexity of text."""
        return "perplexity" if self.is_text else "accuracy"

    @property
    def score(self) -> float | None:
        """The score of the compact network on the test part, if the run has ended."""
        return self.summary.get(f"test_{self.kind}")

    @property
    def task(self) -> tuple[str, str]:
        """The network and the data; scores are compared among runs that have both in common."""
        return str(self.config["model"]), str(self.config["data"])

    @property
    def steps_per_epoch(self) -> float:
        """Steps in an epoch, as logged; 1 where none has ended."""
        return self.epochs[-1]["step"] / self.epochs[-1]["epoch"] if self.epochs else 1.0


def read_runs(folders: list[Path]) -> list[Run]:
    """Read run folders, with names that tell them apart. Raises ValueError if one is given twice, and as `Run.read`."""
    resolved = [folder.resolve() for folder in folders]
    if len(set(resolved)) < len(resolved):
        raise ValueError(f"a run is given twice: {', '.join(map(str, folders))}")
    names = [folder.name for folder in resolved]
    whole = [f"{path.parent.name}/{path.name}" if names.count(path.name) > 1 else path.name for path in resolved]
    if len(set(whole)) < len(whole):
        whole = [str(path) for path in resolved]
    return [Run.read(folder, name=name) for folder, name in zip(folders, whole, strict=True)]


def _config(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged: not YAML ({error})") from None
    if not isinstance(values, dict) or not {"model", "data"} <= values.keys():
        raise ValueError(f"{path} is damaged: it names no model and data")
    return values


def _summary(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: not JSON ({error})") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} is damaged: expected an object")
    return values


def _lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a log that are whole; a run that was killed may have left a part of one."""
    if not path.is_file():
        return []
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            values = json.loads(line)
        except ValueError:
            continue
        if isinstance(values, dict) and isinstance(values.get("step"), int):
            found.append(values)
    return found
