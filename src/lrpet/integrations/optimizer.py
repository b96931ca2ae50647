"""Any loop around a `torch.optim.Optimizer`: plain PyTorch, accelerate, timm's scripts."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from lrpet.projecting.projector import Projector


def attach(projector: Projector, optimizer: Optimizer) -> RemovableHandle:
    """Let every step of `optimizer` that is really taken be followed by `projector.step()`; nothing else to write.

    A step that a gradient scaler skips, and a batch that only accumulates gradients, count for nothing, as they should.
    accelerate's wrapped optimizers are welcome, before or after `prepare`; `accelerator.register_for_checkpointing(projector)`
    then stores and restores the projector with everything else. `handle.remove()` detaches.
    """
    inner = getattr(optimizer, "optimizer", optimizer)  # accelerate's wrapper calls the one inside

    def hook(_: Optimizer, __: tuple[Any, ...], ___: dict[str, Any]) -> None:
        projector.step()

    handle: RemovableHandle = inner.register_step_post_hook(hook)
    return handle
