"""What a network's forward takes, in the forms that users have it in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map


@dataclass(frozen=True)
class Inputs:
    """Positional and keyword arguments of a forward pass; tensors may be nested in them."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @classmethod
    def of(cls, example_inputs: Any) -> Inputs:
        """Spread a tuple as positional arguments and a mapping as keyword arguments; pass anything else alone."""
        if isinstance(example_inputs, Inputs):
            return example_inputs
        if isinstance(example_inputs, Mapping):
            return cls((), dict(example_inputs))
        return cls(example_inputs if isinstance(example_inputs, tuple) else (example_inputs,), {})

    def run(self, model: nn.Module | Callable[..., Any]) -> Any:
        """Return what the model gives for these inputs."""
        return model(*self.args, **self.kwargs)

    @property
    def tensors(self) -> list[Tensor]:
        """Return the tensors in them, positional ones first."""
        return [leaf for leaf in tree_leaves((self.args, dict(self.kwargs))) if isinstance(leaf, Tensor)]

    @property
    def device(self) -> torch.device:
        """Return the device of the first tensor; the CPU if there is none."""
        return next((tensor.device for tensor in self.tensors), torch.device("cpu"))

    def map(self, change: Callable[[Tensor], Tensor]) -> Inputs:
        """Return the inputs with every tensor changed."""
        args, kwargs = tree_map(
            lambda leaf: change(leaf) if isinstance(leaf, Tensor) else leaf, (self.args, dict(self.kwargs))
        )
        return Inputs(args, kwargs)
