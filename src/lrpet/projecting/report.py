"""What a projection did to every layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lrpet.projecting.projection import Energies


@dataclass(frozen=True)
class LayerReport:
    """What one projection did to one layer; if the layer is rectified, energies are those of the folded matrix.

    Energies are sums over the layer's groups.
    """

    rank: int
    """The rank that every group was projected to."""
    energy: float
    """The sum of squared singular values before, E of (E1) in `lrpet.projecting.projection`."""
    energy_after: float
    """The sum of squared singular values of the new weight."""
    pruned: float
    """The fraction of the energy that lay in the pruned singular values before, in [0, 1]."""
    dead: bool
    """Whether the layer was left alone because the largest singular value of every group is below 1e-4."""


class Report:
    """What one projection did; values are read from the device only when they are first looked at.

    Args:
        step: Number of optimizer steps before it.
        ranks: {layer name: rank it was projected to}, in the plan's order.
        energies: For every stack of layers that was projected together: the layers' names, and what happened to the energy
            of every matrix, with the groups of the first layer first.
    """

    def __init__(
        self, step: int, ranks: Mapping[str, int], energies: Sequence[tuple[tuple[str, ...], Energies]]
    ) -> None:
        self.step = step
        """Number of optimizer steps before the projection."""
        self._ranks = ranks
        self._values = [
            (names, torch.stack([_by_layer(names, each) for each in (p.energy, p.energy_after, p.kept)]), p.dead)
            for names, p in energies
        ]
        self._layers: dict[str, LayerReport] | None = None

    def __repr__(self) -> str:
        layers, dead = len(self.layers), len(self.dead)
        parts = [
            f"step={self.step}",
            f"{layers} layer{'' if layers == 1 else 's'}",
            f"pruned {100 * self.pruned:.1f} %",
        ]
        return f"Report({', '.join([*parts, f'{dead} dead'] if dead else parts)})"

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
        """Mean over the layers of the fraction of energy that was pruned, in [0, 1]; 0 without layers."""
        return sum(layer.pruned for layer in self.layers.values()) / max(1, len(self.layers))

    @property
    def worst(self) -> tuple[str, float] | None:
        """Name of the layer of which most was pruned, and the fraction of its energy; None if no layer is alive."""
        alive = ((layer.pruned, name) for name, layer in self.layers.items() if not layer.dead)
        pruned, name = max(alive, key=lambda pair: pair[0], default=(0.0, None))
        return None if name is None else (name, pruned)

    @property
    def dead(self) -> list[str]:
        """Names of the layers left alone because they are dead."""
        return [name for name, layer in self.layers.items() if layer.dead]


def _by_layer(names: tuple[str, ...], energies: Tensor) -> Tensor:
    """Sum the energies of each layer's groups, shape (layers,)."""
    return energies.view(len(names), -1).sum(-1)
