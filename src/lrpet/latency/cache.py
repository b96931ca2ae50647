"""Where measured times are kept, so that a network is measured once on a machine."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lrpet.compact.write import written
from lrpet.latency.machine import machine
from lrpet.latency.table import LatencyTable
from lrpet.layers.inputs import Inputs
from lrpet.planning.plain import read_json
from lrpet.planning.plan import Plan
from lrpet.planning.times import Runtime, milliseconds

#: Counts up when more is measured of a network than before, so that what was measured then is not taken for all there is.
MEASURES = 2


def folder() -> Path:
    """Return the folder of measured times: $LRPET_CACHE, else lrpet in $XDG_CACHE_HOME, which is ~/.cache by default.

    Every file in it can be deleted: what it held is measured again when it is needed.
    """
    if own := os.environ.get("LRPET_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lrpet"


@dataclass
class Entry:
    """What was measured of one network, with one kind of input, on one runtime of one machine."""

    path: Path
    """The file of the table; that of the whole networks lies beside it."""
    table: LatencyTable | None = None
    whole: dict[str, float] = field(default_factory=dict)
    """{ranks, as `ranks_key` names them: time of the compact network as a fraction of the dense one's}."""

    @classmethod
    def of(cls, model: nn.Module, inputs: Inputs, runtime: Runtime) -> Entry:
        """Return what is known of a network here. Files that cannot be read count as nothing."""
        entry = cls(folder() / "latency" / f"{_key(model, inputs, runtime)}.json")
        try:
            entry.table = LatencyTable.load(entry.path)
            whole = read_json(entry._beside.read_bytes())
            entry.whole = {str(ranks): milliseconds(ratio, "a network") for ranks, ratio in whole.items()}
        except (OSError, ValueError, AttributeError, TypeError):
            pass
        return entry

    def keep(self) -> None:
        """Write what is known; where the folder cannot be written, it is known to this process only."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.table is not None:
                self.table.save(self.path)
            with written(self._beside) as temporary:
                temporary.write_text(json.dumps(self.whole, indent=1) + "\n", encoding="utf-8")
        except OSError:
            pass

    @property
    def _beside(self) -> Path:
        return self.path.with_suffix(".whole.json")


def ranks_key(plan: Plan) -> str:
    """Return a short name for a plan's choice of ranks, and of how kernels are divided."""
    chosen = [layer for layer in plan.layers if layer.rank is not None]
    return _hash(
        {each.name: each.rank if each.unfolding == "channel" else [each.rank, each.unfolding] for each in chosen}
    )


def _key(model: nn.Module, inputs: Inputs, runtime: Runtime) -> str:
    """Return a name for machine, versions, runtime, network and kind of input."""
    tensors = [[list(tensor.shape), str(tensor.dtype)] for tensor in inputs.tensors]
    network = [type(model).__qualname__, repr(model), str({parameter.dtype for parameter in model.parameters()})]
    return _hash([MEASURES, machine(inputs.device), runtime, torch.get_num_threads(), tensors, network])


def _hash(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:24]
