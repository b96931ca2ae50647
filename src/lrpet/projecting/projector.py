"""Projector: projects a model's weights now and then while it trains, and tells what that did."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any, get_args

import torch
from torch import Tensor, nn

from lrpet.layers.matrix import weight_of
from lrpet.planning.plan import Plan
from lrpet.projecting.descent import Descent
from lrpet.projecting.projection import Projection, project
from lrpet.projecting.report import Report
from lrpet.projecting.schedule import Shrinking
from lrpet.projecting.solvers import Solver
from lrpet.projecting.stack import Stack, members, stacked
from lrpet.projecting.subspace import Subspace
from lrpet.projecting.warm import WarmStarts


class Projector:
    """Keeps a training model near the low-rank matrices: call `step()` after every optimizer step.

    Weights are changed in place, without gradients, so that optimizers, compiled graphs and data-parallel wrappers go on.

    Args:
        model: The full-size network being trained (the module itself, not a wrapper around it).
        plan: From `lrpet.plan`; or a function that makes it, `lambda: lrpet.plan(model, example, macs=0.45,
            allocate="energy")`, called at the first projection so that ranks are allocated by weights that are trained. With
            a `descent` it is called at every projection until the ranks have come down to the plan's.
        total_steps: Length of the training in steps, which `lrpet.Shrinking` and `lrpet.Descent` need.
        every: Project every so many steps; or by `lrpet.Shrinking`, or any schedule `(step) -> bool`, told the number of the
            step just taken (from 1).
        start: Project at no step before this one. Half of the training, with every=5, did best on CIFAR-10 (RESULTS.md).
        energy_transfer: Hand the energy of the pruned singular values to the kept ones.
        rectify: Fold each layer's batch norm in, where the plan has one.
        tail_scale: ρ in [0, 1): multiply the pruned singular values by this instead of 0.
        descent: Ranks that fall to the plan's while training, see `lrpet.Descent`; else they are the plan's at once.
        solver: How leading subspaces are found, see `lrpet.projecting.solvers`: "auto" starts from the last projection's
            where it can; "eigh" and "svd" always start afresh.
        basis_memory: Bytes that the bases kept for "auto" may take; all of them if None. See `basis_bytes`.

    Raises:
        ValueError: the plan is another network's, or an argument is out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        plan: Plan | Callable[[], Plan],
        *,
        total_steps: int | None = None,
        every: int | Shrinking | Callable[[int], bool],
        start: int = 0,
        energy_transfer: bool = True,
        rectify: bool = True,
        tail_scale: float = 0.0,
        descent: Descent | None = None,
        solver: Solver = "auto",
        basis_memory: int | None = None,
    ) -> None:
        if total_steps is None and (isinstance(every, Shrinking) or descent is not None):
            raise ValueError("lrpet.Shrinking and lrpet.Descent are fractions of a training: give its total_steps")
        if isinstance(every, Shrinking) and total_steps is not None:
            every = every.bound(total_steps)
        if not callable(every) and (not isinstance(every, int) or isinstance(every, bool) or every < 1):
            raise ValueError(f"every={every!r} must be a number of steps, at least 1, or a schedule (step) -> bool")
        if not isinstance(start, int) or isinstance(start, bool) or start < 0:
            raise ValueError(f"start={start!r} must be the number of a step, not negative")
        if not 0 <= tail_scale < 1:
            raise ValueError(f"tail_scale={tail_scale!r} must be at least 0 and below 1")
        if solver not in get_args(Solver):
            raise ValueError(f"solver={solver!r} must be one of {', '.join(get_args(Solver))}")
        if basis_memory is not None and basis_memory < 0:
            raise ValueError(f"basis_memory={basis_memory!r} must be a number of bytes, or None for no limit")
        self.every = every
        self.start = start
        self.energy_transfer = energy_transfer
        self.rectify = rectify
        self.tail_scale = tail_scale
        self.descent = descent
        self.total_steps = total_steps
        self.steps = 0
        """Optimizer steps seen so far."""
        self.seconds = 0.0
        """Wall time that projecting took from the host so far."""
        self.last: Report | None = None
        """Report of the latest projection."""
        self._model = model
        self._warm = WarmStarts(solver, basis_memory)
        self._plan: Plan | None = None
        self._make_plan = None if isinstance(plan, Plan) else plan
        self._ranks: dict[str, int] = {}
        self._stacks: list[Stack] = []
        self._settled = False  # whether the ranks are those of the plan, for good
        if isinstance(plan, Plan):
            self._adopt(plan)

    @property
    def plan(self) -> Plan:
        """The plan in force. Raises RuntimeError if it is to be made at the first projection, and that has not come."""
        if self._plan is None:
            raise RuntimeError("there is no plan yet: it is made at the first projection, by step() or project()")
        return self._plan

    def step(self) -> Report | None:
        """Count one optimizer step; project if one is due, and then return its report."""
        self.steps += 1
        due = self.every(self.steps) if callable(self.every) else self.steps % self.every == 0
        return self.project() if due and self.steps >= self.start else None

    @torch.no_grad()
    def project(self) -> Report:
        """Project every planned layer now.

        All subspaces are found before any weight is changed, so that an error leaves every weight as it was.

        Raises ValueError naming the layers if a weight or its batch norm holds NaN or Inf, or no solver converges.
        """
        start = time.perf_counter()
        if not self._settled:
            self._adopt(self.plan if self._make_plan is None else self._make_plan())
        scales = [stack.row_scale() for stack in self._stacks]
        energies = self._finite_energies(scales)
        found = self._warm.solve(self._stacks, scales, energies)
        projections = [
            (stack.names, self._projected(stack, scale, energy, subspace))
            for stack, scale, energy, subspace in zip(self._stacks, scales, energies, found, strict=True)
        ]
        self._warm.remember(self._stacks, found)
        self.last = Report(self.steps, self._ranks, projections)
        self.seconds += time.perf_counter() - start
        return self.last

    def projected_copy(self, model: nn.Module) -> nn.Module:
        """A projected deep copy of another `model` of the same structure, such as a moving average of the weights.

        Neither `model` nor this projector changes; where no plan is made yet, the copy is not projected. Raises ValueError as
        `project` does, and if the plan does not fit.
        """
        copied = copy.deepcopy(model)
        if self._plan is None:
            return copied
        options: dict[str, Any] = {"energy_transfer": self.energy_transfer, "rectify": self.rectify}
        other = Projector(copied, self._plan, every=1, tail_scale=self.tail_scale, basis_memory=0, **options)
        other._set_ranks(self._plan, self._ranks)
        other.project()
        return copied

    @property
    def basis_bytes(self) -> int:
        """Memory that the bases for the next warm start take."""
        return self._warm.nbytes

    @property
    def solved_again(self) -> int:
        """Layers, over all projections, whose first solution was not good enough: a warm start that was too far off."""
        return self._warm.solved_again

    def state_dict(self) -> dict[str, Any]:
        """Plain values, and tensors under "bases", from which `load_state_dict` continues to the same bits.

        The bases may be left out of what is stored: the next projection is then slower, and right all the same.
        """
        plan = self._plan
        return {
            "steps": self.steps,
            "seconds": self.seconds,
            "ranks": {} if plan is None else plan.ranks,
            **({"plan": plan.to_dict(), "settled": self._settled} if plan is not None and self._moves else {}),
            **self._warm.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`.

        Raises ValueError, and changes nothing, if it belongs to a projector with other layers or ranks.
        """
        optional = {"bases", "waits", "plan", "settled"}
        needed = self.state_dict().keys() - optional
        if not isinstance(state, dict) or state.keys() - optional != needed or not isinstance(state["ranks"], dict):
            raise ValueError("not a projector's state: expected the keys " + ", ".join(self.state_dict()))
        plan = self._plan
        if self._moves and ("plan" in state or self._make_plan is not None):
            plan = Plan.from_dict(state["plan"]) if "plan" in state else None
        planned = {} if plan is None else plan.ranks
        if state["ranks"] != planned:
            changed = sorted(dict(state["ranks"].items() ^ planned.items()))
            raise ValueError(
                f"this state was saved with other ranks for {', '.join(changed[:5])}{' …' if len(changed) > 5 else ''}: "
                "make the projector from the plan that was saved with it"
            )
        found = [] if plan is None else members(self._model, plan, planned, rectify=self.rectify)
        layers = {member.name: member for member in found}
        bases = state.get("bases") or {}
        for name, basis in bases.items():
            shape = layers[name].matrices.shape if name in layers else None
            rank = basis.shape[-1] if self._moves else planned.get(name)
            if shape is None or basis.shape != (shape[0], min(shape[1:]), rank):
                raise ValueError(f"this state holds a basis for {name!r} of another network: {tuple(basis.shape)}")
        self.steps, self.seconds = int(state["steps"]), float(state["seconds"])
        if plan is None:
            self._plan, self._ranks, self._stacks, self._settled = None, {}, [], False
        elif self._moves:
            self._adopt(plan)
            self._settled = bool(state.get("settled"))
        self._warm.waits = {name: (int(wait), int(pause)) for name, (wait, pause) in state.get("waits", {}).items()}
        self._warm.bases = {name: basis.to(weight_of(layers[name].module).device) for name, basis in bases.items()}

    @property
    def _moves(self) -> bool:
        """Whether the plan or the ranks change while training."""
        return self._make_plan is not None or self.descent is not None

    def _adopt(self, plan: Plan) -> None:
        """Let this plan be in force, at the ranks of the moment. Raises ValueError if it is another network's."""
        plan.modules(self._model)
        descent, done = self.descent, self.steps / (self.total_steps or 1)
        full = {layer.name: layer.shape.full_rank for layer in plan.layers if layer.name in plan.ranks}
        self._set_ranks(
            plan,
            {
                name: rank if descent is None else descent.rank(full[name], rank, done)
                for name, rank in plan.ranks.items()
            },
        )
        self._settled = all(rank == plan.ranks[name] for name, rank in self._ranks.items())

    def _set_ranks(self, plan: Plan, ranks: dict[str, int]) -> None:
        """The plan in force, and what each layer is projected to."""
        layers = members(self._model, plan, ranks, rectify=self.rectify)
        self._plan = plan
        self._ranks = {member.name: member.rank for member in layers}
        self._stacks = stacked(layers)
        self._warm.keep_only(self._ranks)

    def _finite_energies(self, scales: list[Tensor | None]) -> list[Tensor]:
        """The energy of every stack's matrices. Raises ValueError naming the layers that hold NaN or Inf."""
        if not self._stacks:
            return []
        found = [stack.energies(scale) for stack, scale in zip(self._stacks, scales, strict=True)]
        device = found[0][1].device
        finite = torch.cat([ok.to(device) for _, ok in found]).tolist()  # read from the device once
        names = [name for stack in self._stacks for name in stack.names]
        bad = {name for name, ok in zip(names, finite, strict=True) if not ok}
        if bad:
            layers = ", ".join(name for name in self._ranks if name in bad)
            raise ValueError(
                f"NaN or Inf in the weights or batch norm of {layers} at step {self.steps}, or in their squares: nothing was "
                "projected. Training has diverged: lower the learning rate, or go back to the last checkpoint."
            )
        return [energy for energy, _ in found]

    def _projected(self, stack: Stack, scale: Tensor | None, energy: Tensor, subspace: Subspace) -> Projection:
        """Project the weights of a stack in place."""
        matrices = stack.matrices()
        projected = project(
            matrices,
            stack.rank,
            row_scale=scale,
            energy_transfer=self.energy_transfer,
            tail_scale=self.tail_scale,
            subspace=subspace,
            energy=energy,
            out=matrices,
        )
        stack.write(projected.matrix)
        return projected
