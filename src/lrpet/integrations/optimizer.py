"""Any loop around a `torch.optim.Optimizer`: plain PyTorch, accelerate, timm's scripts."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer

from lrpet.projecting.projector import Projector

KEY = "lrpet_projector"
_ATTACHED: weakref.WeakKeyDictionary[Projector, weakref.ref[Attachment]] = weakref.WeakKeyDictionary()
#: Optimizers whose state holds a projector's.
_KEEPING: weakref.WeakSet[Optimizer] = weakref.WeakSet()


class Attachment:
    """A projector attached to an optimizer; `remove()` detaches it."""

    def __init__(self, projector: Projector, optimizer: Any) -> None:
        self.projector = projector
        self.optimizer = weakref.ref(optimizer)
        self.removers = [_after_step(optimizer, self._stepped)]
        _ATTACHED[projector] = weakref.ref(self)  # the optimizer's hook keeps it

    def remove(self) -> None:
        """Detach the projector; a second call does nothing."""
        if self.removers:
            _ATTACHED.pop(self.projector, None)
        while self.removers:
            self.removers.pop()()

    def _stepped(self) -> None:
        self.projector.step()


def attach(projector: Projector, optimizer: Optimizer, *, keep_state: bool = True) -> Attachment:
    """Let every step that `optimizer` really takes be followed by `projector.step()`; nothing else is to be written.

    A step that a gradient scaler skips, and a batch that only accumulates gradients, count for nothing. The projector's state
    goes into `optimizer.state_dict()` under "lrpet_projector" and comes back by `load_state_dict`, so that every script that
    saves its optimizer resumes right. Attach before such a state is loaded.

    accelerate's wrapped optimizers are welcome, before or after `prepare`, and timm's lookahead optimizers.

    Args:
        projector: What is stepped.
        optimizer: Any optimizer, or a wrapper that holds one as `.optimizer`.
        keep_state: Whether the optimizer's state holds the projector's; False where a checkpoint holds it elsewhere.

    A second call with one projector and one optimizer changes nothing, and returns what the first one did.

    Raises ValueError if the projector is attached to another optimizer, or the optimizer's state holds another projector.
    Warns if the optimizer has taken steps, or loads a state of a training, that the projector knows nothing of.
    """
    inner: Any = getattr(optimizer, "optimizer", optimizer)  # accelerate's wrapper calls the one inside
    holder = getattr(inner, "_base_optimizer", inner)  # timm's Lookahead keeps its state in the one it wraps
    if (before := _attached(projector, inner)) is not None:
        return before
    if keep_state and holder in _KEEPING:
        raise ValueError(
            "the optimizer's state holds another projector: call remove() on what attach returned for that one, or give "
            "keep_state=False and keep this one's state_dict elsewhere"
        )
    if keep_state and holder.state and not projector.steps:
        warnings.warn(
            "the optimizer has taken steps already, and the projector counts from 0: attach it before the optimizer's state is "
            "loaded, or set projector.steps",
            stacklevel=2,
        )
    attachment = Attachment(projector, inner)
    if keep_state:
        attachment.removers += _with_state(holder, projector)
    return attachment


def _attached(projector: Projector, optimizer: Any) -> Attachment | None:
    """Return how the projector is attached to the optimizer; None if it is attached to none."""
    reference = _ATTACHED.get(projector)
    attachment = None if reference is None else reference()
    other = None if attachment is None else attachment.optimizer()
    if other is not None and other is not optimizer:
        raise ValueError(
            f"this projector is attached to another {type(other).__name__}, and would count the steps of both: call remove() "
            "on what attach returned, or make a projector of its own"
        )
    return None if other is None else attachment


def _after_step(optimizer: Any, call: Callable[[], Any]) -> Callable[[], None]:
    """Call after every step; return what undoes this."""
    if getattr(type(optimizer).step, "hooked", False):
        remover: Callable[[], None] = optimizer.register_step_post_hook(lambda *_: _ignore(call())).remove
        return remover
    # Optimizers that do not call Optimizer.__init__, as timm's Lookahead, run no hooks.
    step = optimizer.step

    def stepped(*args: Any, **kwargs: Any) -> Any:
        result = step(*args, **kwargs)
        call()
        return result

    optimizer.step = stepped
    return lambda: setattr(optimizer, "step", step)


def _with_state(optimizer: Optimizer, projector: Projector) -> list[Callable[[], None]]:
    """Keep the projector's state in the optimizer's; return what undoes this."""

    def save(_: Optimizer, state: dict[str, Any]) -> None:
        state[KEY] = projector.state_dict()

    def load(_: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        rest = {key: value for key, value in state.items() if key != KEY}
        if KEY in state:
            projector.load_state_dict(state[KEY])
        elif state.get("state"):
            warnings.warn(
                f"this optimizer state was saved without a projector, which goes on counting from step {projector.steps}: set "
                "projector.steps to the number of steps taken",
                stacklevel=2,
            )
        return rest

    _KEEPING.add(optimizer)
    kept = weakref.ref(optimizer)
    return [
        optimizer.register_state_dict_post_hook(save).remove,
        optimizer.register_load_state_dict_pre_hook(load).remove,
        lambda: _KEEPING.discard(kept()),  # type: ignore[arg-type]  # None is in no set
    ]


def _ignore(_: object) -> None:
    return None
