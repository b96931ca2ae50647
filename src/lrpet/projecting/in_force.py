"""Which ranks a training network is projected to at the moment."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

import torch
from torch import nn

from lrpet.layers.matrix import MatrixLayer
from lrpet.layers.sound import check_changeable, check_materialised
from lrpet.planning.budget import ImpossibleBudgetError
from lrpet.planning.division import Numbers, divide
from lrpet.planning.plan import Plan
from lrpet.planning.spectra import kept_energy
from lrpet.projecting.descent import Descent
from lrpet.projecting.stack import Stack, owners, stacked
from lrpet.sharding.placement import reshard
from lrpet.sharding.work import Assigned, assigned, averaged, check_equal, computed


class PlanInForce:
    """A plan, and the ranks of the moment: the plan's, or higher ones while a descent goes on.

    Where the plan asks for a division by trained weights, its budget is divided again before the first projection, and under
    a descent before every projection until the ranks have come down.

    Args:
        model: The network being trained.
        plan: What was planned before training.
        allocate: How the budget is divided again; None if the ranks of `plan` hold.
        descent: Ranks that fall to the plan's, if they do.
        rectify: Whether batch norms are folded in.

    Raises ValueError if the plan is another network's.
    """

    def __init__(
        self, model: nn.Module, plan: Plan, *, allocate: str | None, descent: Descent | None, rectify: bool
    ) -> None:
        self.model = model
        self.allocate = allocate
        self.descent = descent
        self.rectify = rectify
        self._request = plan.request
        self.plan: Plan
        self.layers: dict[str, MatrixLayer]
        """{name: layer} of the layers that are projected, with the batch norms that are folded in; of layers that share a
        weight, the first."""
        self.ranks: dict[str, int]
        """{layer name: rank of the moment}, in the plan's order."""
        self.adopt(plan if allocate is not None else plan.settled(), fraction=0.0)
        self.settled = not self.moves
        self._agreed = False

    @property
    def alone(self) -> bool:
        """Whether this process projects without others."""
        return self._alone

    @property
    def device(self) -> torch.device:
        """The device of the first layer's weight; the CPU if there are no layers."""
        return next((layer.weight.device for layer in self.layers.values()), torch.device("cpu"))

    @property
    def moves(self) -> bool:
        """Whether the plan or the ranks change while training."""
        return self.allocate is not None or self.descent is not None

    def work(self) -> list[Assigned]:
        """Return the layers with the processes that project them, which may change as weights are sharded."""
        reshard(self.model)
        return assigned(list(self.layers.values()), alone=self._alone)

    def stacks(self) -> list[Stack]:
        """Return the layers in stacks. Raises ValueError if a weight is on the meta device."""
        check_materialised(self.layers.values())
        return stacked(self.work(), self.ranks)

    def follow(self) -> None:
        """Bind the plan to the network again, if modules were replaced or parametrized since it was bound.

        Raises ValueError naming a layer that the plan does not fit any more.
        """
        if self._bound_to != _fingerprint(self.model):
            self.adopt(self.plan, fraction=0.0, ranks={**self.plan.ranks, **self.ranks}, alone=self._alone)

    def check_agreed(self) -> None:
        """Raise ValueError, at the first call, if another process has another plan or other ranks."""
        if not self._agreed:
            remedy = "plan in one of them, and send the others its JSON (Plan.to_json, Plan.from_json)"
            check_equal(self.work(), "the plan", repr([*self.ranks.items(), self.allocate]), remedy)
            self._agreed = True

    def renew(self, fraction: float, energies: Callable[[Mapping[str, MatrixLayer]], Numbers]) -> None:
        """Divide the budget again, and lower the ranks, where that is still to be done.

        Args:
            fraction: The part of the training that is done.
            energies: What fractions of their energy layers keep at each rank.

        Raises ValueError if a weight holds NaN or Inf.
        """
        if self.settled:
            return
        plan = self.plan
        if self.allocate is not None and self._request is not None:
            try:
                plan = divide(
                    plan,
                    self._request,
                    self.model,
                    self.allocate,
                    energies=energies,
                    agreed=lambda found: averaged(found, self.work()),
                )
            except ImpossibleBudgetError as error:
                warnings.warn(f"the ranks stay as planned before training: {error}", stacklevel=3)
        self.adopt(plan, fraction=fraction)
        self.settled = self.ranks == {name: plan.ranks[name] for name in self.ranks}
        if self.settled:
            self.plan = plan.settled()

    def adopt(
        self, plan: Plan, *, fraction: float, ranks: Mapping[str, int] | None = None, alone: bool = False
    ) -> None:
        """Let this plan be in force, at these ranks or at those of the moment; `alone` leaves other processes out.

        Raises ValueError, and changes nothing, if it is another network's, or the weights cannot be changed in place.
        """
        reshard(self.model)
        layers = plan.bind(self.model)
        check_changeable(layers.values())
        if ranks is None:
            ranks = {name: self._rank(layer, plan.ranks[name], fraction) for name, layer in layers.items()}
        if not self.rectify:
            for layer in layers.values():
                layer.batch_norm = None
        self.plan = plan
        self.layers = {layer.name: layer for layer in owners(layers.values())}
        self.ranks = {name: ranks[name] for name in self.layers}
        self._alone = alone
        self._bound_to = _fingerprint(self.model)

    def restore(self, plan: Plan, *, fraction: float, settled: bool) -> None:
        """Continue with a plan that was in force. Raises ValueError, and changes nothing, if it is another network's."""
        self.adopt(plan, fraction=fraction)
        self.settled = settled

    def _rank(self, layer: MatrixLayer, planned: int, fraction: float) -> int:
        return planned if self.descent is None else self.descent.rank(layer.shape.full_rank, planned, fraction)


def _fingerprint(model: nn.Module) -> list[tuple[int, type[nn.Module], tuple[str, ...]]]:
    """Return what changes as soon as a module is replaced or parametrized."""
    return [(id(module), type(module), tuple(module._parameters)) for module in model.modules()]


def kept_energies(layers: Mapping[str, MatrixLayer]) -> Numbers:
    """Return {layer name: the fraction of its weight's energy kept at rank 1, 2, …}, found by all processes together."""
    return computed(layers, kept_energy)


def again_by(plan: Plan, start: float, descent: Descent | None) -> str | None:
    """Return how a plan's budget is divided again by trained weights; None if its ranks hold as they are."""
    if plan.request is None or not plan.request.by_weights:
        return None
    allocate = plan.request.allocate
    if allocate == "auto":
        normalised = any(layer.batch_norm is not None for layer in plan.layers)
        return "energy" if normalised and start >= 0.5 and descent is None else None
    if allocate == "sensitivity" and plan.request.worths is None:
        raise ValueError(
            "this plan divides its budget by sensitivity and was read from a file, which holds no batches: plan again, or "
            "take its ranks as they are by plan.settled()"
        )
    return allocate


def check_ranks(saved: dict[str, int], planned: dict[str, int]) -> None:
    """Raise ValueError if a saved state has other ranks than the plan that it is loaded for."""
    if saved != planned:
        changed = sorted(dict(saved.items() ^ planned.items()))
        raise ValueError(
            f"this state was saved with other ranks for {', '.join(changed[:5])}{' …' if len(changed) > 5 else ''}: "
            "make the projector from the plan that was saved with it"
        )
