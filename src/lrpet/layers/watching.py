"""What an observed forward pass watches besides modules: uses of weights, and the multiply-adds of all products."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lrpet.layers.mode import evaluating

#: Held by whoever puts hooks, modes or gradients on a network for a while, which no other thread may meet.
ONE_AT_A_TIME = threading.RLock()


class Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the multiply-adds of matrix products and convolutions by the formulas of torch's `FlopCounterMode`.

    Scaled dot-product attention runs as two products meanwhile, so that no fused kernel escapes the count.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        from torch.utils.flop_counter import flop_registry  # imports triton where it is there: not before it is needed

        self.macs = 0
        self._formulas = flop_registry
        self._math = sdpa_kernel(SDPBackend.MATH)

    def __enter__(self) -> Products:
        self._math.__enter__()
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)  # type: ignore[no-untyped-call]
        self._math.__exit__(*exception)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation, and add its multiply-adds: half the floating-point operations."""
        result = func(*args, **(kwargs or {}))
        if (formula := self._formulas.get(func._overloadpacket)) is not None:
            self.macs += formula(*args, **(kwargs or {}), out_val=result) // 2
        return result


class WeightUses(TorchFunctionMode):
    """Watches which weights are computed with while a module runs that is not their own."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.running: list[nn.Module] = []
        self.elsewhere: set[str] = set()
        self._users: dict[int, list[tuple[str, nn.Module]]] = defaultdict(list)
        for name, module in modules.items():
            for parameter in module._parameters.values():
                if parameter is not None and parameter.dim() >= 2:
                    self._users[id(parameter)].append((name, module))

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(result)):  # a look at a shape or a dtype is no use
            current = self.running[-1] if self.running else None
            for leaf in tree_leaves((args, kwargs)):
                users = self._users.get(id(leaf), ()) if isinstance(leaf, nn.Parameter) else ()
                if not any(current is module or _runs(current, module) for _, module in users):
                    self.elsewhere.update(name for name, _ in users)
        return result


def _runs(attention: nn.Module | None, module: nn.Module) -> bool:
    return isinstance(attention, nn.MultiheadAttention) and attention.out_proj is module


@contextmanager
def left_as_found(model: nn.Module) -> Iterator[None]:
    """Evaluate without gradients inside; after it, restore every module's mode, every buffer and the random state."""
    buffers = [(module, dict(module._buffers)) for module in model.modules()]
    values = [(buffer, buffer.clone()) for buffer in model.buffers()]
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    try:
        with (
            evaluating(model),
            torch.random.fork_rng(devices=list(devices)),
            torch.inference_mode(False),
            torch.no_grad(),
        ):
            yield
    finally:
        for module, registered in buffers:
            module._buffers.clear()
            module._buffers.update(registered)
        with torch.no_grad():
            for buffer, before in values:
                if not torch.equal(buffer, before):
                    buffer.copy_(before)
