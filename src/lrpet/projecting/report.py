"""What a projection did to every layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lrpet.projecting.projection import Projection


@dataclass(frozen=True)
class LayerReport:
    """One layer's projection. Energies are those of the folded matrix where the layer is rectified."""

    rank: int
    energy: float
    """Sum of squared singular values before."""
    energy_after: float
    pruned: float
    """Fraction of the energy that lay in the pruned singular values, before; in [0, 1]."""
    dead: bool
    """Whether the layer was left alone because its largest singular value is below 1e-4; in every group."""


class Report:
    """What one projection did. Values are read from the device only when `layers` is first looked at."""

    def __init__(
        self, step: int, ranks: Mapping[str, int], projections: Sequence[tuple[tuple[str, ...], Projection]]
    ) -> None:
        self.step = step
        self._ranks = ranks
        self._values = [
            (names, torch.stack([_of_layers(names, each) for each in (p.energy, p.energy_after, p.kept)]), p.dead)
            for names, p in projections
        ]
        self._layers: dict[str, LayerReport] | None = None

    @property
    def layers(self) -> dict[str, LayerReport]:
        """{layer name: its report}, in the plan's order."""
        if self._layers is None:
            reports = {}
            for names, values, dead_groups in self._values:
                all_dead = dead_groups.view(len(names), -1).all(-1).tolist()
                for name, (energy, after, kept), dead in zip(names, values.double().T.tolist(), all_dead, strict=True):
                    reports[name] = LayerReport(
                        rank=self._ranks[name],
                        energy=energy,
                        energy_after=after,
                        pruned=min(1.0, max(0.0, 1 - kept / energy)) if energy > 0 else 0.0,
                        dead=dead,
                    )
            self._layers = {name: reports[name] for name in self._ranks}
        return self._layers

    @property
    def pruned(self) -> float:
        """Mean over the layers of the fraction of energy that was pruned."""
        return sum(layer.pruned for layer in self.layers.values()) / max(1, len(self.layers))

    @property
    def dead(self) -> list[str]:
        """Names of the layers left alone because they are dead."""
        return [name for name, layer in self.layers.items() if layer.dead]


def _of_layers(names: tuple[str, ...], energies: Tensor) -> Tensor:
    """Summed over the groups of each layer, shape (layers,)."""
    return energies.view(len(names), -1).sum(-1)
