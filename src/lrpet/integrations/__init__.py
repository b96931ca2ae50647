"""One module per framework, each imported when it is first asked for.

`lrpet.integrations.optimizer` is for plain PyTorch, accelerate and timm, `.huggingface` and `.lightning` for their trainers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lrpet.integrations import huggingface, lightning, optimizer

__all__ = ["huggingface", "lightning", "optimizer"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'lrpet.integrations' has no attribute {name!r}")
    return importlib.import_module(f"lrpet.integrations.{name}")
