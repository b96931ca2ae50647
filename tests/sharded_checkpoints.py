"""A training that keeps sharded checkpoints of torch.distributed, as docs/scaling.md writes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from sharded_loops import BATCH, EPOCHS, ROWS, TOKENS, batches, gpt, planned
from torch import Tensor
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard

#: Steps after which a number of processes hands over to another: before and after the first projection, at step 4.
STEPS = (0, 3, 6, EPOCHS * len(ROWS) // BATCH)


def trained(begin: int, end: int, folder: Path | None) -> dict[str, Any]:
    """Train from one step to another, from and to the checkpoint in `folder`; finish after the last. Alone without one."""
    model = gpt()
    projector = planned(model)
    projector.total_steps = STEPS[-1]
    if folder is not None:
        for part in (*model.transformer.h, model):
            fully_shard(part)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    if folder is not None and begin:
        load(model, optimizer, projector, folder / str(begin))
    for batch in [batch for _ in range(EPOCHS) for batch in batches()][begin:end]:
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
        projector.step()
    if end == STEPS[-1]:
        outputs: Tensor = projector.finish().eval()(TOKENS[:4]).logits.detach()
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
