"""The singular values of all layers, recorded at a few moments of a training: what `lrpet report` draws.

In the run folder, a file of safetensors for each moment, spectra/STEP-WHEN.safetensors, {layer name: values (full rank,)}.
WHEN is "free" before any projection at that step, "projected" right after it, and "end" after the last projection of all.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from lrpet import Projector
from lrpet.compact.write import written
from lrpet.layers.kinds import layers_of
from lrpet.layers.matrix import MatrixLayer
from lrpet.planning.spectra import squared_singular_values
from lrpet.sharding.placement import is_dtensor

FOLDER = "spectra"
#: The file that says why nothing is recorded.
SKIPPED = "skipped.txt"
#: Moments between the beginning and the first projection, and after the first one, at most.
BEFORE, AFTER = 3, 4
#: Layers with more weights than this are left out, since their values would take long and gigabytes.
LARGEST = 2**26

When = Literal["free", "projected", "end"]


def moments(total_steps: int, projections: list[int]) -> set[tuple[int, When]]:
    """Return the moments of a training that are recorded, as (step, when); `projections` are the steps that end in one.

    They are the beginning, a few before the first projection, before and after it, a few before later ones, and the end.
    """
    first = projections[0] if projections else total_steps
    later = projections[1:]
    free = [first * part // (BEFORE + 1) for part in range(BEFORE + 2)]
    free += [later[len(later) * part // AFTER] for part in range(AFTER) if later]
    recorded: set[tuple[int, When]] = {(step, "free") for step in free}
    recorded |= {(step, "projected") for step in projections[:1]}
    return recorded | {(total_steps, "end")}


class Spectra:
    """Records the singular values of a projector's network; changes no weight, and draws no random number.

    Args:
        projector: The projector of the training, which knows its length.
        folder: The run folder.
        wanted: Whether this process records.
    """

    def __init__(self, projector: Projector, folder: Path, *, wanted: bool) -> None:
        self.folder = folder / FOLDER
        self.seconds = 0.0
        """Wall time that recording took in this process."""
        self._projector = projector
        self._wanted = wanted
        assert projector.total_steps is not None
        self._moments = moments(projector.total_steps, projector.due_steps() if projector.plan.ranks else [])

    def begin(self, step: int) -> None:
        """Begin, or go on after `step`: what was recorded beyond it happens again. Record the beginning."""
        if not self._wanted:
            return
        (self.folder / SKIPPED).unlink(missing_ok=True)
        for path in self.folder.glob("*-*.safetensors"):
            number, _, when = path.stem.partition("-")
            if int(number) > step or when == "end":
                path.unlink()
        if step == 0:
            self.record(0, "free")

    @torch.no_grad()
    def record(self, step: int, when: When) -> None:
        """Record this moment, if it is one of those that are recorded. A file appears whole or not at all."""
        if not self._wanted or (step, when) not in self._moments:
            return
        begin = time.perf_counter()
        self.folder.mkdir(exist_ok=True)
        layers = self._layers()
        if any(is_dtensor(layer.weight) for layer in layers.values()):
            with written(self.folder / SKIPPED) as temporary:
                temporary.write_text(
                    "The weights are sharded among processes: none of them has a whole matrix.\n", "utf-8"
                )
            return
        values = {name: found for name, layer in layers.items() if (found := singular_values(layer)) is not None}
        with written(self.folder / f"{step:09d}-{when}.safetensors") as temporary:
            save_file(values, temporary)
        self.seconds += time.perf_counter() - begin

    def _layers(self) -> dict[str, MatrixLayer]:
        """Return the layers whose weights are matrices, as the plan in force divides them."""
        every = {name: layer for name, layer in layers_of(self._projector.model).items() if layer.refusal() is None}
        every |= self._projector.plan.bind(self._projector.model)
        return {name: layer for name, layer in every.items() if layer.weight.numel() <= LARGEST}


def singular_values(layer: MatrixLayer) -> Tensor | None:
    """Return the singular values of a weight as it is, without its batch norm, shape (full rank,); None if not finite.

    Of a layer in groups, each is the root of the sum of the groups' squares. They are float32, on the CPU, and descend.
    """
    squares = squared_singular_values(layer.matrices().detach().double())
    return None if squares is None else squares.sum(0).sqrt().float().cpu()
