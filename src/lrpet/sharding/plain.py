"""A sharded network as a plain one in process 0."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lrpet.sharding.placement import is_dtensor, whole

#: What modules hold for torch.distributed alone.
_STATE = "__composable_api_state_key"


def is_sharded(model: nn.Module) -> bool:
    """Tell whether any parameter is a DTensor."""
    return any(is_dtensor(parameter) for parameter in model.parameters())


def gathered(model: nn.Module, *, without: Collection[Tensor]) -> nn.Module:
    """Return a sharded network as a plain one, on the CPU of process 0 and on the meta device in the others.

    Parameters `without` are not filled. The others are put together one after the other, on the device, and copied to
    process 0: every process sends what it holds of them.
    """
    copied, left_out = _plain(model), {id(parameter) for parameter in without}
    targets = dict(copied.named_parameters())
    for name, parameter in model.named_parameters():
        if id(parameter) not in left_out:
            targets[name].data.copy_(whole(parameter.detach()))
    return copied


def _plain(model: nn.Module) -> nn.Module:
    """Return a copy of a sharded network without its sharding, its parameters whole and not yet filled.

    In process 0 it is on the CPU, in the others on the meta device. Buffers are those of this process.
    """
    from torch.distributed.fsdp import FSDPModule

    device = torch.device("cpu" if dist.get_rank() == 0 else "meta")
    memo: dict[int, Any] = {}
    modules = list(model.modules())
    for module in modules:
        kind = type(module)
        memo[id(module)] = object.__new__(kind.__mro__[2] if isinstance(module, FSDPModule) else kind)
        for parameter in module._parameters.values():
            if parameter is not None and id(parameter) not in memo:
                empty = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
                memo[id(parameter)] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
        for buffer in module._buffers.values():
            if buffer is not None:
                memo[id(buffer)] = whole(buffer).detach().clone().to(device)
    for module in modules:
        for name, value in vars(module).items():
            if not name.startswith(_STATE):
                vars(memo[id(module)])[name] = copy.deepcopy(_users(value) if "hooks" in name else value, memo)
    result: nn.Module = memo[id(model)]
    return result


def _users(hooks: Any) -> Any:
    """Return hooks without those of torch.distributed; what is no dictionary of hooks as it is."""
    if not isinstance(hooks, dict):
        return hooks
    return {
        key: hook
        for key, hook in hooks.items()
        if not str(getattr(hook, "__module__", "")).startswith("torch.distributed.")
    }
