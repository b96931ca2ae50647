"""Projector: projects a model's weights now and then while it trains, and tells what that did."""

from __future__ import annotations

import copy
import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, get_args

import torch
from torch import Tensor, nn

from lrpet.descent import Descent
from lrpet.matrix import fold, row_scale, scale_of_rows, unfold, weight_of
from lrpet.plan import Plan
from lrpet.projection import Projection, project
from lrpet.statistics import Report
from lrpet.subspace import WARM_TOLERANCE, Solver, Subspace, leading

#: On a CPU, layers whose smaller side is at most this are solved together; larger ones keep its cores busy by themselves.
STACKED_UP_TO = 128
#: The most numbers in one stack.
STACK_ELEMENTS = 2**24
#: The most projections that pass before a warm start that failed is tried again.
LONGEST_WAIT = 16


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
        ranks: Ranks that fall to the plan's while training, see `lrpet.Descent`; else they are the plan's from the start.
        solver: How leading subspaces are found, see `lrpet.subspace`: "auto" starts from the last projection's where it can;
            "eigh" and "svd" always start afresh.
        basis_memory: Bytes that the bases kept for "auto" may take; all of them if None. See `basis_bytes`.

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
        ranks: Descent | None = None,
        solver: Solver = "auto",
        basis_memory: int | None = None,
    ) -> None:
        if not callable(every) and (not isinstance(every, int) or isinstance(every, bool) or every < 1):
            raise ValueError(f"every={every!r} must be a number of steps, at least 1, or a schedule (step) -> bool")
        if not 0 <= tail_scale < 1:
            raise ValueError(f"tail_scale={tail_scale!r} must be at least 0 and below 1")
        if solver not in get_args(Solver):
            raise ValueError(f"solver={solver!r} must be one of {', '.join(get_args(Solver))}")
        if basis_memory is not None and basis_memory < 0:
            raise ValueError(f"basis_memory={basis_memory!r} must be a number of bytes, or None for no limit")
        self.plan = plan
        self.every = every
        self.energy_transfer = energy_transfer
        self.rectify = rectify
        self.tail_scale = tail_scale
        self.descent = ranks
        self.solver = solver
        self.basis_memory = basis_memory
        self.steps = 0
        """Optimizer steps seen so far."""
        self.seconds = 0.0
        """Wall time that projecting took from the host so far."""
        self.solved_again = 0
        """Layers, over all projections, whose first solution was not good enough: a warm start that was too far off."""
        self.last: Report | None = None
        """Report of the latest projection."""
        self._model = model
        self._bases: dict[str, Tensor] = {}
        self._waits: dict[str, tuple[int, int]] = {}  # projections to let pass before a warm start is tried again
        self._settled = False  # whether falling ranks have come down to the plan's
        self._adopt(plan)

    def step(self) -> Report | None:
        """Count one optimizer step; project if one is due, and then return its report."""
        self.steps += 1
        due = self.every(self.steps) if callable(self.every) else self.steps % self.every == 0
        return self.project() if due else None

    @torch.no_grad()
    def project(self) -> Report:
        """Project every planned layer now.

        All subspaces are found before any weight is changed, so that an error leaves every weight as it was.

        Raises ValueError naming the layers if a weight or its batch norm holds NaN or Inf, or no solver converges.
        """
        start = time.perf_counter()
        if self.descent is not None:  # the ranks of this step, by a new plan as long as they move
            replan = None if self._settled else self.descent.replan
            self._adopt(self.plan if replan is None else replan())
            self._settled = self._ranks == {name: self.plan.ranks[name] for name in self._ranks}
        scales = {name: self._rows(name, row_scale(norm)) for name, norm in self._batch_norms.items()}
        energies = self._finite_energies(scales)
        found = self._subspaces(scales, energies)
        projections = [
            (names, self._projected(names, scales, energy, subspace))
            for names, energy, subspace in zip(self._stacks, energies, found, strict=True)
        ]
        self._keep_bases(found)
        self.last = Report(self.steps, self._ranks, projections)
        self.seconds += time.perf_counter() - start
        return self.last

    def _adopt(self, plan: Plan) -> None:
        """Let this plan be in force, at its ranks. Raises ValueError if it is another network's."""
        layers = _first_users(plan.modules(self._model))
        chosen = [layer for layer in plan.layers if layer.name in layers]
        self.plan, self._layers = plan, layers
        self._unfoldings = {layer.name: layer.unfolding for layer in chosen}
        partners = {layer.name: layer.batch_norm for layer in chosen if self.rectify and layer.batch_norm is not None}
        self._batch_norms = {name: self._model.get_submodule(partner) for name, partner in partners.items()}
        full = {layer.name: layer.shape.full_rank for layer in chosen}
        moving = self.descent
        self._set_ranks(
            {
                name: plan.ranks[name] if moving is None else moving.rank(full[name], plan.ranks[name], self.steps)
                for name in layers
            }
        )

    def _set_ranks(self, ranks: dict[str, int]) -> None:
        """What each layer is projected to; a basis of another rank is none to start from."""
        self._ranks = ranks
        self._stacks = self._stacked_layers()
        self._bases = {name: basis for name, basis in self._bases.items() if basis.shape[-1] == ranks.get(name)}

    def projected_copy(self, model: nn.Module) -> nn.Module:
        """A projected deep copy of another `model` of the same structure, such as a moving average of the weights.

        Neither `model` nor this projector changes. Raises ValueError as `project` does, and if the plan does not fit.
        """
        copied = copy.deepcopy(model)
        options: dict[str, Any] = {"energy_transfer": self.energy_transfer, "rectify": self.rectify}
        other = Projector(copied, self.plan, every=1, tail_scale=self.tail_scale, basis_memory=0, **options)
        other._set_ranks(dict(self._ranks))
        other.project()
        return copied

    @property
    def basis_bytes(self) -> int:
        """Memory that the bases for the next warm start take."""
        return sum(basis.nbytes for basis in self._bases.values())

    def _subspaces(self, scales: dict[str, Tensor], energies: list[Tensor]) -> list[Subspace]:
        """The leading subspace of every stack; a warm start that is not good enough is solved again."""
        stacks = list(zip(self._stacks, energies, strict=True))
        found = [self._solved(names, scales, energy, self.solver) for names, energy in stacks]
        for i, names in enumerate(self._stacks):  # only now is anything read from a GPU
            started = self.solver == "auto" and self._start(names) is not None
            for solver in ("eigh", "svd"):
                if bool((found[i].error <= WARM_TOLERANCE).all()):
                    break
                found[i] = self._solved(names, scales, energies[i], solver)
            else:
                if not bool(found[i].error.isfinite().all()):
                    raise ValueError(
                        f"no solver converged for {', '.join(names)} at step {self.steps}: nothing was projected"
                    )
            self._learn(names, started=started, warm=found[i].solver == "warm")
        return found

    def _learn(self, names: tuple[str, ...], *, started: bool, warm: bool) -> None:
        """After a warm start that was not good enough, let one projection pass before the next try; then two, four, …"""
        waiting, pause = self._waits.get(names[0], (0, 0))
        if started and not warm:
            self.solved_again += len(names)
            pause = min(LONGEST_WAIT, max(1, 2 * pause))
            self._waits[names[0]] = (pause, pause)
        elif started:
            self._waits.pop(names[0], None)
        elif waiting:
            self._waits[names[0]] = (waiting - 1, pause)

    def _start(self, names: tuple[str, ...]) -> Tensor | None:
        """The basis for a warm start, if there is one and it is worth trying."""
        return None if self._waits.get(names[0], (0, 0))[0] else _stacked(self._bases, names)

    def _solved(self, names: tuple[str, ...], scales: dict[str, Tensor], energy: Tensor, solver: Solver) -> Subspace:
        stack = self._stack(names)
        weight = stack.to(torch.promote_types(stack.dtype, torch.float32))
        rank = self._ranks[names[0]]
        scale = _stacked(scales, names)
        try:
            return leading(weight, rank, row_scale=scale, start=self._start(names), solver=solver, energy=energy)
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
            failed = weight.new_full((len(weight),), torch.inf)
            return Subspace(weight, weight, False, weight, failed, failed, solver)

    def _keep_bases(self, found: list[Subspace]) -> None:
        """Keep the bases for the next warm start, the smallest first, as far as the memory allowed for them goes."""
        self._bases = {}
        if self.solver != "auto":
            return
        left = float("inf") if self.basis_memory is None else self.basis_memory
        bases = [(names, subspace.basis) for names, subspace in zip(self._stacks, found, strict=True)]
        for names, basis in sorted(bases, key=lambda pair: pair[1].nbytes):
            if (left := left - basis.nbytes) < 0:
                break
            self._bases.update(zip(names, basis.chunk(len(names)), strict=True))

    def _stacked_layers(self) -> list[tuple[str, ...]]:
        """The layers' names, those together that are solved as one batch: equal in all that matters, and small."""
        together: dict[Any, list[str]] = defaultdict(list)
        for name, module in self._layers.items():
            weight, shape = weight_of(module), self._matrices(name).shape
            small = min(shape[1:]) <= STACKED_UP_TO or weight.is_cuda
            alike = (shape, self._ranks[name], name in self._batch_norms, weight.dtype, weight.device)
            together[alike if small else name].append(name)
        stacks = []
        for names in together.values():
            most = max(1, STACK_ELEMENTS // weight_of(self._layers[names[0]]).numel())
            stacks += [tuple(names[i : i + most]) for i in range(0, len(names), most)]
        return stacks

    def _stack(self, names: tuple[str, ...]) -> Tensor:
        """The weights of equally shaped layers as one stack of matrices, of all groups: (batch, rows, columns)."""
        matrices = [self._matrices(name) for name in names]
        return matrices[0] if len(matrices) == 1 else torch.cat(matrices)

    def _matrices(self, name: str) -> Tensor:
        return unfold(self._layers[name], self._unfoldings[name])

    def _rows(self, name: str, channels: Tensor) -> Tensor:
        """A number for each channel of a layer as one for each row of its matrices."""
        return scale_of_rows(channels, self._layers[name], self._unfoldings[name])

    def _projected(
        self, names: tuple[str, ...], scales: dict[str, Tensor], energy: Tensor, subspace: Subspace
    ) -> Projection:
        """Project the weights of these layers in place."""
        stack = self._stack(names)
        projected = project(
            stack,
            self._ranks[names[0]],
            row_scale=_stacked(scales, names),
            energy_transfer=self.energy_transfer,
            tail_scale=self.tail_scale,
            subspace=subspace,
            energy=energy,
            out=stack,
        )
        for name, matrices in zip(names, projected.matrix.chunk(len(names)), strict=True):
            weight = weight_of(self._layers[name])
            if matrices.data_ptr() != weight.data_ptr():
                weight.copy_(fold(matrices, self._layers[name], self._unfoldings[name]))
        return projected

    def _finite_energies(self, scales: dict[str, Tensor]) -> list[Tensor]:
        """The energy of every stack; raises ValueError naming the layers that hold NaN or Inf."""
        energies, finite = [], []
        for names in self._stacks:
            stack, scale = self._stack(names), _stacked(scales, names)
            rows = torch.linalg.vector_norm(stack, dim=-1, dtype=torch.promote_types(stack.dtype, torch.float32))
            energy = (rows if scale is None else rows * scale).square().sum(-1)
            ok = energy.isfinite() & rows.isfinite().all(-1)
            if scale is not None:  # an infinite variance makes a finite scale, 0
                variances = [self._rows(name, _variance(self._batch_norms[name])) for name in names]
                ok &= torch.cat(variances).isfinite().all(-1)
            energies.append(energy)
            finite.append(ok.view(len(names), -1).all(-1))
        each = torch.cat([ok.to(finite[0].device) for ok in finite]).tolist() if finite else []
        bad = {name for name, ok in zip(itertools.chain(*self._stacks), each, strict=True) if not ok}
        if bad:
            layers = ", ".join(name for name in self._layers if name in bad)
            raise ValueError(
                f"NaN or Inf in the weights or batch norm of {layers} at step {self.steps}, or in their squares: nothing was "
                "projected. Training has diverged: lower the learning rate, or go back to the last checkpoint."
            )
        return energies

    def state_dict(self) -> dict[str, Any]:
        """Plain values, and tensors under "bases", from which `load_state_dict` continues to the same bits.

        The bases may be left out of what is stored: the next projection is then slower, and right all the same.
        """
        return {
            "steps": self.steps,
            "seconds": self.seconds,
            "ranks": self.plan.ranks,
            **({"plan": self.plan.to_dict(), "settled": self._settled} if self.descent is not None else {}),
            "waits": {name: list(wait) for name, wait in self._waits.items()},
            "bases": dict(self._bases),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`. Raises ValueError if it belongs to a projector with other layers or ranks."""
        optional = {"bases", "waits", "plan", "settled"}
        needed = self.state_dict().keys() - optional
        if not isinstance(state, dict) or state.keys() - optional != needed or not isinstance(state["ranks"], dict):
            raise ValueError("not a projector's state: expected the keys " + ", ".join(self.state_dict()))
        if self.descent is not None and "plan" in state:
            self._adopt(Plan.from_dict(state["plan"]))
            self._settled = bool(state.get("settled"))
        if state["ranks"] != self.plan.ranks:
            changed = sorted(dict(state["ranks"].items() ^ self.plan.ranks.items()))
            raise ValueError(
                f"this state was saved with other ranks for {', '.join(changed[:5])}{' …' if len(changed) > 5 else ''}: "
                "make the projector from the plan that was saved with it"
            )
        bases = state.get("bases") or {}
        for name, basis in bases.items():
            shape = self._matrices(name).shape if name in self._layers else None
            rank = basis.shape[-1] if self.descent is not None else self._ranks.get(name)
            if shape is None or basis.shape != (shape[0], min(shape[1:]), rank):
                raise ValueError(f"this state holds a basis for {name!r} of another network: {tuple(basis.shape)}")
        self.steps, self.seconds = int(state["steps"]), float(state["seconds"])
        self._waits = {name: (int(waiting), int(pause)) for name, (waiting, pause) in state.get("waits", {}).items()}
        self._bases = {name: basis.to(weight_of(self._layers[name]).device) for name, basis in bases.items()}


def _first_users(layers: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """One layer for every weight, the first of those that share it."""
    first: dict[int, str] = {}
    for name, module in layers.items():
        first.setdefault(id(weight_of(module)), name)
    return {name: layers[name] for name in first.values()}


def _stacked(tensors: Mapping[str, Tensor], names: tuple[str, ...]) -> Tensor | None:
    """The tensors of these layers, each (groups, …), as one (batch, …); None unless all of them have one."""
    if not all(name in tensors for name in names):
        return None
    return tensors[names[0]] if len(names) == 1 else torch.cat([tensors[name] for name in names])


def _variance(batch_norm: nn.Module) -> Tensor:
    variance = batch_norm.running_var
    assert isinstance(variance, Tensor)
    return variance
