"""A training that keeps sharded checkpoints of torch.distributed, as docs/scaling.md writes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

import lrpet
from replicas import Attending
from shards import TOKENS, sharded

#: Steps after which a number of processes hands over to another: before and after the first projection, at step 4.
STEPS = (0, 3, 6, 8)


def trained(begin: int, end: int, folder: Path | None) -> dict[str, Any]:
    """Train from one step to another, from and to the checkpoint in `folder`; finish after the last. Alone without one."""
    torch.manual_seed(0)
    model = Attending()
    plan = lrpet.plan(model, TOKENS, params=0.7, multiple_of=1)
    projector = lrpet.Projector(model, plan, total_steps=STEPS[-1], every=2)
    if folder is not None:
        sharded(model, *model.blocks)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    if folder is not None and begin:
        load(model, optimizer, projector, folder / str(begin))
    for step in range(begin, end):
        optimizer.zero_grad()
        logits, narrow = model(TOKENS.roll(step, 0))
        loss: Tensor = nn.functional.cross_entropy(logits.mT, TOKENS.roll(step, 0)) + narrow.square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        projector.step()
    if end == STEPS[-1]:
        outputs = [output.detach() for output in projector.finish().eval()(TOKENS)]
        return {"outputs": outputs, "ranks": projector.plan.ranks, "steps": projector.steps}
    assert folder is not None
    save(model, optimizer, projector, folder / str(end))
    return {}


def save(model: Any, optimizer: Any, projector: Any, folder: Path) -> None:
    """Write the shards of all processes, and what the projector knows beside them."""
    weights, moments = get_state_dict(model, optimizer)
    state_dict_saver.save({"model": weights, "optimizer": moments}, checkpoint_id=folder)
    if torch.distributed.get_rank() == 0:
        kept = {name: value for name, value in projector.state_dict().items() if name != "bases"}
        (folder / "projector.json").write_text(json.dumps(kept))


def load(model: Any, optimizer: Any, projector: Any, folder: Path) -> None:
    """Read what `save` wrote, in any number of processes."""
    weights, moments = get_state_dict(model, optimizer)
    state_dict_loader.load({"model": weights, "optimizer": moments}, checkpoint_id=folder)
    set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=moments)
    projector.load_state_dict(json.loads((folder / "projector.json").read_text()))
