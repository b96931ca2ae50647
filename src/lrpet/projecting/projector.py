"""Projector: projects a model's weights now and then while it trains, and tells what that did."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn

from lrpet.layers.wrapping import unwrapped
from lrpet.planning.plan import Plan
from lrpet.projecting.descent import Descent
from lrpet.projecting.in_force import PlanInForce, again_by, kept_energies
from lrpet.projecting.on_data import Outputs
from lrpet.projecting.outputs import transfer_outputs
from lrpet.projecting.projection import Energies, Transfer, transfer
from lrpet.projecting.recorded import Recorder
from lrpet.projecting.report import Report
from lrpet.projecting.sharing import Found, Sharing
from lrpet.projecting.solvers import Solver
from lrpet.projecting.stack import Gathered, check_finite
from lrpet.projecting.state import Stored
from lrpet.projecting.stopwatch import Stopwatch
from lrpet.projecting.warm import WarmStarts
from lrpet.projecting.when import Every, When

#: The mean fraction of energy from which `finish` warns that the weights had left their low rank.
FAR_FROM_LOW_RANK = 0.01


class Projector:
    """Keeps a training model near the low-rank matrices: call `step()` after every optimizer step.

    Weights are changed in place, without gradients, so that optimizers, compiled graphs and data-parallel wrappers go on.

    Where torch.distributed has a process group, plain weights are taken for replicas, and DTensors for shards of one network.
    The processes divide the layers among them (docs/scaling.md), and all have to call `step`, `project` and `finish` alike.

    Args:
        model: The full-size network being trained. Wrappers of torch.compile and data parallelism are seen through.
        plan: From `lrpet.plan`. If it asks for ranks by trained weights, its budget is divided again at the first projection;
            with a `descent`, at every projection until the ranks have come down to the plan's.
        total_steps: Length of the training in steps. Fractions are fractions of it; it may be set later, before the first step.
        start: Project at no step before this: a float is a fraction of the training, an int counts steps. Half of the
            training, with every=5, did best on CIFAR-10 (RESULTS.md).
        every: Project every so many steps (int), every fraction of the training (float), by `lrpet.Shrinking`, or by a
            schedule `(step) -> bool`, told the number of the step just taken (from 1).
        energy_transfer: Hand the energy of the pruned singular values to the kept ones: (E4) of
            `lrpet.projecting.projection`.
        rectify: Fold each layer's batch norm in, where the plan has one: (E5).
        tail_scale: ρ in [0, 1): multiply the pruned singular values by this instead of 0.
        descent: Ranks that fall to the plan's while training, see `lrpet.Descent`; else they are the plan's at once.
        solver: How leading subspaces are found, see `lrpet.projecting.solvers`: "auto" starts from the last projection's
            where it can; "eigh" and "svd" always start afresh.
        basis_memory: Bytes that the bases kept for "auto" may take; all of them if None. See `basis_bytes`.
        calibration: Inputs of the network, each as for `lrpet.plan`, without labels. Every projection then looks at the outputs
            on all of them, and keeps what the outputs of each layer need, (E6) of `lrpet.projecting.outputs`, and not what the
            weights need. It costs two forward passes of these inputs: a batch is enough. Each process gives its own.
        cuda_graphs: Replay the kernels of a projection of a small network, where one process works on one GPU. Projections of
            networks above 2²⁵ weights, in several processes, of float16 weights or on a CPU go on without.

    Raises:
        ValueError: the plan is another network's, the weights cannot be changed in place, or an argument is out of range.
    """

    def __init__(  # noqa: PLR0913  # keyword arguments as sugar: those of time go into When
        self,
        model: nn.Module,
        plan: Plan,
        *,
        total_steps: int | None = None,
        start: int | float = 0.5,
        every: Every = 5,
        energy_transfer: bool = True,
        rectify: bool = True,
        tail_scale: float = 0.0,
        descent: Descent | None = None,
        solver: Solver = "auto",
        basis_memory: int | None = None,
        calibration: Collection[Any] | None = None,
        cuda_graphs: bool = True,
    ) -> None:
        if not isinstance(plan, Plan):
            raise ValueError(f"plan must be what lrpet.plan returned; got {type(plan).__name__}")
        if not 0 <= tail_scale < 1:
            raise ValueError(f"tail_scale={tail_scale!r} must be at least 0 and below 1")
        if calibration is not None and (isinstance(calibration, Tensor) or not isinstance(calibration, Collection)):
            raise ValueError(
                f"calibration must be a list of inputs; got {type(calibration).__name__}: put batches into a list"
            )
        self.model = unwrapped(model)
        self.calibration = calibration
        self.energy_transfer = energy_transfer
        self.rectify = rectify
        self.tail_scale = tail_scale
        self.descent = descent
        self.steps = 0
        """Optimizer steps seen so far."""
        self._stopwatch = Stopwatch()
        self.last: Report | None = None
        """Report of the latest projection."""
        self._when = When(start, every)
        self._due: Callable[[int], bool] | None = None
        self._asked = plan
        self._warm = WarmStarts(solver, basis_memory)
        self._recorder = Recorder(self._warm, self._transfer, self._options) if cuda_graphs else None
        self.total_steps = total_steps

    @property
    def total_steps(self) -> int | None:
        """Return the length of the training in steps, if it is known."""
        return self._total_steps

    @total_steps.setter
    def total_steps(self, total_steps: int | None) -> None:
        if total_steps is not None and (not isinstance(total_steps, int) or total_steps < 1):
            raise ValueError(f"total_steps={total_steps!r} must be the length of the training in steps, at least 1")
        if self.steps:
            raise ValueError(f"total_steps is set before the first step; this projector has counted {self.steps}")
        self._total_steps = total_steps
        self._due = None if total_steps is None else self._when.bound(total_steps)
        allocate = again_by(self._asked, self._when.start_fraction(total_steps), self.descent)
        self._in_force = PlanInForce(
            self.model, self._asked, allocate=allocate, descent=self.descent, rectify=self.rectify
        )

    @property
    def plan(self) -> Plan:
        """Return the plan in force: after the first projection, that of trained weights where one was asked for."""
        return self._in_force.plan

    @property
    def seconds(self) -> float:
        """Return the seconds of all projections: wall time, or on a GPU from the first kernel of each to its last."""
        return self._stopwatch.seconds

    @property
    def start(self) -> int:
        """Return the first step after which a projection may come."""
        return self._when.first_step(self.total_steps)

    def due_steps(self) -> list[int]:
        """Return the steps of the training after which projections are due. Raises ValueError without `total_steps`."""
        if self.total_steps is None:
            raise ValueError("the steps of a training whose length is not known cannot be listed: set total_steps")
        due = self._when.bound(self.total_steps)
        return [step for step in range(1, self.total_steps + 1) if due(step)]

    def __repr__(self) -> str:
        return f"Projector(step {self.steps}, {len(self._in_force.ranks)} layers, {self.plan.budget})"

    def step(self) -> Report | None:
        """Count one optimizer step; project if one is due, and then return its report.

        Raises ValueError as `project` does, and if the length of the training is needed and not known.
        """
        if self._due is None:
            self._due = self._when.bound(self.total_steps)
            self._fraction()
        self.steps += 1
        return self.project() if self._due(self.steps) else None

    @torch.no_grad()
    def project(self) -> Report:
        """Project every planned layer now.

        All subspaces are found before any weight is changed, so that an error leaves every weight as it was. Modules that were
        replaced since the last projection are taken as they are now.

        Raises ValueError naming the layers if a weight or its batch norm holds NaN or Inf, if no solver converges, if new
        weights are beyond the range of float16, or if layers were replaced by others that the plan does not fit.
        """
        in_force = self._in_force
        stop = self._stopwatch.started(in_force.device)
        in_force.follow()
        in_force.check_agreed()
        outputs = None if self.calibration is None else Outputs(self.model, self.calibration, alone=in_force.alone)
        in_force.renew(self._fraction(), kept_energies if outputs is None else outputs.kept_energies)
        if outputs is not None:
            outputs.see(in_force.layers)
        self._warm.keep_only(in_force.ranks)
        replayed = self._recorder.project(in_force) if self._recorder is not None and outputs is None else None
        energies = self._launched(outputs) if replayed is None else replayed
        self.last = Report(self.steps, in_force.ranks, energies)
        stop()
        return self.last

    def _launched(self, outputs: Outputs | None) -> Found:
        """Project all layers, kernel by kernel."""
        sharing = Sharing(self._in_force.stacks())
        with sharing.agreeing():
            gathered = sharing.gather()
            check_finite(gathered, self._in_force.ranks, step=self.steps)
            if outputs is None:
                self._warm.solve(gathered)
            else:
                outputs.into(gathered)
        energies = sharing.spread(gathered, self._transfer)
        self._warm.remember(gathered)
        return energies

    def finish(self) -> nn.Module:
        """Project once more, and return the compact network: `lrpet.factorize(model, projector.plan)`.

        All processes of a training have to call. The compact network of sharded weights is on the CPU of process 0, and on
        the meta device in the others.

        Warns if the weights held 1 % of their energy outside the planned ranks or more. They are then not those that the last
        projections left, such as a checkpoint from before the first projection that was restored as the best one.

        Raises ValueError as `project` does.
        """
        from lrpet.compact.factorize import factorized  # the next room of the story: imported here alone

        self.settle(stacklevel=3)
        return factorized(self.model, self.plan, together=True)

    def settle(self, *, stacklevel: int = 2) -> Report:
        """Project at the end of a training, and warn as `finish` does; `stacklevel` is that of the warning."""
        report = self.project()
        if report.pruned >= FAR_FROM_LOW_RANK:
            warnings.warn(
                f"the last projection cut {report.pruned:.1%} of the energy of the weights: they were not near the planned "
                f"ranks. If a checkpoint was restored as the best one, choose among those from step {self.start} on",
                stacklevel=stacklevel,
            )
        return report

    def projected_copy(self, model: nn.Module) -> nn.Module:
        """Return a projected deep copy of another network with these layers, such as a moving average of the weights.

        Among many processes this one does it alone, so that it may be called in one of them; the weights must be whole.
        `AveragedModel` and timm's moving averages are taken as they are. Neither `model` nor this projector changes. While
        the ranks are still to be divided by trained weights, the copy is not projected. Raises ValueError as `project` does,
        and if the plan does not fit.
        """
        copied = copy.deepcopy(unwrapped(model))
        if not self._in_force.settled and self.descent is None:
            return copied
        options = {**self._options(), "rectify": self.rectify, "calibration": self.calibration}
        other = Projector(copied, self.plan.settled(), start=0, every=1, basis_memory=0, **options)
        ranks = {**self.plan.ranks, **self._in_force.ranks}
        other._in_force.adopt(self.plan.settled(), fraction=0.0, ranks=ranks, alone=True)
        other.project()
        return copied

    @property
    def basis_bytes(self) -> int:
        """Return the memory that the bases for the next warm start take, in bytes."""
        return self._warm.nbytes

    @property
    def solved_again(self) -> int:
        """Return the number of layers, over all projections, whose warm start was too far off."""
        return self._warm.solved_again

    def state_dict(self) -> dict[str, Any]:
        """Return plain values, and tensors under "bases", from which `load_state_dict` continues to the same bits.

        The bases may be left out of what is stored: the next projection is then slower, and right all the same.
        """
        moving = {"plan": self.plan.to_dict(), "settled": self._in_force.settled} if self._in_force.moves else {}
        return {
            "steps": self.steps,
            "seconds": self.seconds,
            "ranks": self.plan.ranks,
            **moving,
            **self._warm.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`.

        Raises ValueError, and changes nothing, if it belongs to a projector with other layers or ranks.
        """
        stored = Stored.read(state, keys=self.state_dict().keys(), in_force=self._in_force)
        if self._in_force.moves:
            self._in_force.restore(stored.plan, fraction=self._fraction(stored.steps), settled=stored.settled)
        self.steps, self._stopwatch.seconds = stored.steps, stored.seconds
        self._warm.waits, self._warm.bases = stored.waits, dict(stored.bases)

    def _fraction(self, steps: int | None = None) -> float:
        """Return the part of the training that is done after this many steps; it is needed for a descent only."""
        if self.descent is not None and self.total_steps is None:
            raise ValueError("a descent counts fractions of the training: give total_steps to the projector")
        return (self.steps if steps is None else steps) / (self.total_steps or 1)

    def _transfer(self, each: Gathered) -> tuple[Transfer, Energies]:
        """Find what becomes of the weights of a stack."""
        matrices, options = each.matrices, {"row_scale": each.row_scale, **self._options()}
        if each.moment is not None:
            return transfer_outputs(matrices, each.moment, each.stack.rank, **options)
        assert each.subspace is not None
        return transfer(matrices, each.subspace, energy=each.energy, **options)

    def _options(self) -> dict[str, Any]:
        return {"energy_transfer": self.energy_transfer, "tail_scale": self.tail_scale}
