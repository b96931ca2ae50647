"""The memory that one pass takes."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lrpet.compact.cpu_convolution import CpuConv2d
from lrpet.layers.inputs import Inputs


def eager_memory(network: nn.Module, inputs: Inputs) -> int:
    """Return the bytes of a network's weights, and of the most tensors that are alive at once in a pass on the CPU.

    Weights that `lrpet.optimize` packs count twice, as they are kept. Inputs are left out. Room that single operations take
    for themselves is not seen.
    """
    alive = _Alive([*_weights(network), *inputs.tensors])
    with torch.no_grad():
        inputs.run(network)  # packs weights, which is no part of a pass
        with alive:
            inputs.run(network)
    packed = sum(module.packed_bytes for module in network.modules() if isinstance(module, CpuConv2d))
    return _bytes(network) + packed + alive.most


def cuda_memory(network: nn.Module, run: Any, device: torch.device) -> int:
    """Return the bytes of a network's weights, and of the most that torch has allocated at once in a pass."""
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    run()
    torch.cuda.synchronize(device)
    most: int = torch.cuda.max_memory_allocated(device)
    return _bytes(network) + most - before


def saved_bytes(network: nn.Module) -> int:
    """Count the bytes of all parameters and buffers that are saved, shared ones once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in network.state_dict().values()}
    return sum(storages.values())


def _weights(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]


def _bytes(network: nn.Module) -> int:
    return sum({id(tensor): int(tensor.nbytes) for tensor in _weights(network)}.values())


class _Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the bytes of the tensors that operations make, until nothing refers to them."""

    def __init__(self, known: list[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self._known = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._seen(leaf.untyped_storage())
        self.most = max(self.most, self.now)
        return result

    def _seen(self, storage: torch.UntypedStorage) -> None:
        if (key := storage._cdata) not in self._known:
            self._known.add(key)
            self.now += storage.nbytes()
            weakref.finalize(storage, self._gone, key, storage.nbytes())

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size
