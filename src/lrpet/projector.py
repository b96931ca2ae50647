"""Projector: projects a model's weights now and then while it trains, and tells what that did."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lrpet.matrix import as_matrix, row_scale
from lrpet.plan import Plan
from lrpet.projection import Projection, project


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
    """Whether the layer was left alone because its largest singular value is below 1e-4."""


class Report:
    """What one projection did. Values are read from the device only when `layers` is first looked at."""

    def __init__(self, step: int, ranks: dict[str, int], projections: list[Projection]) -> None:
        self.step = step
        self._ranks = ranks
        self._values = [torch.stack([p.energy, p.energy_after, p.kept, p.dead.to(p.energy)]) for p in projections]
        self._layers: dict[str, LayerReport] | None = None

    @property
    def layers(self) -> dict[str, LayerReport]:
        """{layer name: its report}, in the plan's order."""
        if self._layers is None:
            values = torch.stack([value.double() for value in self._values]).tolist() if self._values else []
            self._layers = {
                name: LayerReport(
                    rank=rank,
                    energy=energy,
                    energy_after=after,
                    pruned=min(1.0, max(0.0, 1 - kept / energy)) if energy > 0 else 0.0,
                    dead=bool(dead),
                )
                for (name, rank), (energy, after, kept, dead) in zip(self._ranks.items(), values, strict=True)
            }
        return self._layers

    @property
    def pruned(self) -> float:
        """Mean over the layers of the fraction of energy that was pruned."""
        return sum(layer.pruned for layer in self.layers.values()) / max(1, len(self.layers))

    @property
    def dead(self) -> list[str]:
        """Names of the layers left alone because they are dead."""
        return [name for name, layer in self.layers.items() if layer.dead]


class Projector:
    """Keeps a training model near the low-rank matrices: call `step()` after every optimizer step.

    Weights are changed in place, without gradients, so that optimizers, compiled graphs and data-parallel wrappers go on.

    Args:
        model: The full-size network being trained (the module itself, not a wrapper around it).
        plan: From `lrpet.plan`.
        every: Project every so many steps; or a schedule: `(step) -> bool`, told the number of the step just taken (from 1).
        energy_transfer: Hand the energy of the pruned singular values to the kept ones.
        rectify: Fold each layer's batch norm in, where the plan has one.
        tail_scale: ρ in [0, 1): multiply the pruned singular values by this instead of 0.

    Raises:
        ValueError: the plan is another network's, or an argument is out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        plan: Plan,
        *,
        every: int | Callable[[int], bool],
        energy_transfer: bool = True,
        rectify: bool = True,
        tail_scale: float = 0.0,
    ) -> None:
        if not callable(every) and (not isinstance(every, int) or isinstance(every, bool) or every < 1):
            raise ValueError(f"every={every!r} must be a number of steps, at least 1, or a schedule (step) -> bool")
        if not 0 <= tail_scale < 1:
            raise ValueError(f"tail_scale={tail_scale!r} must be at least 0 and below 1")
        self.plan = plan
        self.every = every
        self.energy_transfer = energy_transfer
        self.tail_scale = tail_scale
        self.steps = 0
        """Optimizer steps seen so far."""
        self.seconds = 0.0
        """Wall time that projecting took from the host so far."""
        self.last: Report | None = None
        """Report of the latest projection."""
        self._layers = plan.modules(model)
        partners = {layer.name: layer.batch_norm for layer in plan.layers if rectify and layer.batch_norm is not None}
        self._batch_norms = {name: model.get_submodule(partner) for name, partner in partners.items()}

    def step(self) -> Report | None:
        """Count one optimizer step; project if one is due, and then return its report."""
        self.steps += 1
        due = self.every(self.steps) if callable(self.every) else self.steps % self.every == 0
        return self.project() if due else None

    @torch.no_grad()
    def project(self) -> Report:
        """Project every planned layer now.

        Raises ValueError naming the layers if a weight or its batch norm holds NaN or Inf; no weight is changed then.
        """
        start = time.perf_counter()
        scales = {name: row_scale(batch_norm) for name, batch_norm in self._batch_norms.items()}
        self._check_finite(scales)
        projections = [
            project(
                as_matrix(_weight(module)),
                self.plan.ranks[name],
                row_scale=scales.get(name),
                energy_transfer=self.energy_transfer,
                tail_scale=self.tail_scale,
            )
            for name, module in self._layers.items()
        ]
        for module, projection in zip(self._layers.values(), projections, strict=True):
            _weight(module).copy_(projection.matrix.view_as(_weight(module)))
        self.last = Report(self.steps, self.plan.ranks, projections)
        self.seconds += time.perf_counter() - start
        return self.last

    def _check_finite(self, scales: dict[str, Tensor]) -> None:
        tensors = {name: [_weight(module)] for name, module in self._layers.items()}
        for name, batch_norm in self._batch_norms.items():
            assert isinstance(batch_norm.running_var, Tensor)
            tensors[name] += [scales[name], batch_norm.running_var]  # an infinite variance makes a finite scale, 0
        if not tensors:
            return
        finite = torch.stack([_finite(each) for each in tensors.values()]).tolist()
        bad = [name for name, ok in zip(self._layers, finite, strict=True) if not ok]
        if bad:
            raise ValueError(
                f"NaN or Inf in the weights or batch norm of {', '.join(bad)} at step {self.steps}: nothing was projected. "
                "Training has diverged: lower the learning rate, or go back to the last checkpoint."
            )

    def state_dict(self) -> dict[str, Any]:
        """Plain values from which `load_state_dict` continues."""
        return {"steps": self.steps, "seconds": self.seconds, "ranks": self.plan.ranks}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`. Raises ValueError if it belongs to a projector with other layers or ranks."""
        if (
            not isinstance(state, dict)
            or state.keys() != self.state_dict().keys()
            or not isinstance(state["ranks"], dict)
        ):
            raise ValueError("not a projector's state: expected the keys " + ", ".join(self.state_dict()))
        if state["ranks"] != self.plan.ranks:
            changed = sorted(dict(state["ranks"].items() ^ self.plan.ranks.items()))
            raise ValueError(
                f"this state was saved with other ranks for {', '.join(changed[:5])}{' …' if len(changed) > 5 else ''}: "
                "make the projector from the plan that was saved with it"
            )
        self.steps, self.seconds = int(state["steps"]), float(state["seconds"])


def _weight(module: nn.Module) -> Tensor:
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight


def _finite(tensors: list[Tensor]) -> Tensor:
    norms = [torch.linalg.vector_norm(t, dtype=torch.promote_types(t.dtype, torch.float32)) for t in tensors]
    return torch.stack([norm.isfinite() for norm in norms]).all()
