"""The state of a projector as it is stored, checked before anything is restored from it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lrpet.planning.plan import Plan
from lrpet.projecting.in_force import PlanInForce, check_ranks

#: Keys that a state may lack.
OPTIONAL = {"bases", "waits", "plan", "settled"}


@dataclass(frozen=True)
class Stored:
    """What a projector continues from."""

    steps: int
    seconds: float
    plan: Plan
    settled: bool
    waits: dict[str, tuple[int, int]]
    bases: dict[str, Tensor]
    """On the devices of the weights."""

    @classmethod
    def read(cls, state: Any, *, keys: Collection[str], in_force: PlanInForce) -> Stored:
        """Check what `Projector.state_dict` returned, with these keys, for the network and plan in force.

        Raises ValueError if it is anything else, or belongs to a projector with other layers or ranks.
        """
        needed = set(keys) - OPTIONAL
        if not isinstance(state, dict) or state.keys() - OPTIONAL != needed or not isinstance(state["ranks"], dict):
            raise ValueError("not a projector's state: expected the keys " + ", ".join(keys))
        try:
            steps, seconds = int(state["steps"]), float(state["seconds"])
            waits = {name: (int(wait), int(pause)) for name, (wait, pause) in (state.get("waits") or {}).items()}
        except (TypeError, AttributeError) as error:
            raise ValueError(f"not a projector's state: {error}") from None
        moves = in_force.moves
        plan = Plan.from_dict(state["plan"]) if moves and "plan" in state else in_force.plan
        check_ranks(state["ranks"], plan.ranks)
        layers = plan.bind(in_force.model)
        bases = state.get("bases") or {}
        for name, basis in bases.items():
            shape = layers[name].matrices().shape if name in layers else None
            rank = basis.shape[-1] if moves and isinstance(basis, Tensor) else plan.ranks.get(name)
            found = basis.shape if isinstance(basis, Tensor) else type(basis).__name__
            if shape is None or found != (shape[0], min(shape[1:]), rank):
                raise ValueError(f"this state holds a basis for {name!r} of another network: {found}")
        placed = {name: basis.to(layers[name].weight.device) for name, basis in bases.items()}
        return cls(steps, seconds, plan, bool(state.get("settled")), waits, placed)
