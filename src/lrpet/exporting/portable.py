"""A network as every format has it: tensors by name in, tensors by name out."""

from __future__ import annotations

import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_flatten_with_path, tree_unflatten

from lrpet.layers.inputs import Inputs


class Portable(nn.Module):
    """A network whose forward takes the tensors of its inputs, each under a name, and returns tensors alone.

    Whatever else the example inputs hold (None, flags, numbers) is fixed. An output of one tensor stays one; mappings and
    data classes become one flat dictionary, everything else a flat tuple.
    """

    def __init__(self, network: nn.Module, inputs: Inputs) -> None:
        super().__init__()
        self.network = network
        leaves, spec = tree_flatten((inputs.args, dict(inputs.kwargs)))
        places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        fixed = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self.names = tuple(named_tensors(network, inputs))
        self.positional = len(Inputs(inputs.args, {}).tensors)

        def forward(*args: Tensor, **kwargs: Tensor) -> Any:
            filled = list(fixed)
            for place, tensor in zip(places, (*args, *(kwargs[name] for name in self.names[len(args) :])), strict=True):
                filled[place] = tensor
            positional, keyword = tree_unflatten(filled, spec)
            return _plain(network(*positional, **keyword))

        # torch.export names what it exports by the signature of the forward.
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        forward.__signature__ = inspect.Signature([inspect.Parameter(name, kind) for name in self.names])  # type: ignore[attr-defined]
        self.forward = forward

    def run(self, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return the outputs by name for the inputs in the order of `names`."""
        return dict(_named(self(*tensors)))

    def arguments(self, tensors: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        """Return tensors as the positional and keyword arguments that the example inputs were."""
        keyword = zip(self.names[self.positional :], tensors[self.positional :], strict=True)
        return tuple(tensors[: self.positional]), dict(keyword)


def output_names(output: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the tensors that a network returns, and of what it returns besides, which is not exported."""
    others = (name for name, leaf in _named(output) if not isinstance(leaf, Tensor) and leaf is not None)
    return tuple(dict(_named(_plain(output)))), tuple(others)


def _plain(output: Any) -> Any:
    if isinstance(output, Tensor):
        return output
    tensors = {name: leaf for name, leaf in _named(output) if isinstance(leaf, Tensor)}
    return tensors if _fields(output) is not None else tuple(tensors.values())


def _named(output: Any) -> Iterator[tuple[str, Any]]:
    return _leaves(output, "" if _fields(output) is not None else "output")


def _leaves(output: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield (name, leaf) of nested outputs, each name made of the keys and numbers on the way."""
    inner = _fields(output)
    if inner is None and isinstance(output, tuple | list):
        inner = {str(i): each for i, each in enumerate(output)}
    if inner is None:
        yield name, output
        return
    for key, each in inner.items():
        yield from _leaves(each, f"{name}_{key}" if name else str(key))


def _fields(output: Any) -> Mapping[Any, Any] | None:
    if isinstance(output, Mapping):
        return output
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        return {field.name: getattr(output, field.name) for field in dataclasses.fields(output)}
    return None


def named_tensors(network: nn.Module, inputs: Inputs) -> dict[str, Tensor]:
    """Return the tensors by the parameters of the forward that take them; nested ones by their place in it besides."""
    parameters = inspect.signature(network.forward).parameters.values()
    own = [each.name for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    rest = next((each.name for each in parameters if each.kind is each.VAR_POSITIONAL), "input")
    positional = [*own, *(f"{rest}_{i}" for i in range(len(inputs.args) - len(own)))]
    arguments = (dict(zip(positional, inputs.args, strict=False)), dict(inputs.kwargs))
    named: dict[str, Tensor] = {}
    for path, leaf in tree_flatten_with_path(arguments)[0]:
        if isinstance(leaf, Tensor):
            steps = (str(getattr(step, "key", getattr(step, "idx", step))) for step in path[1:])
            name = re.sub(r"\W", "_", "_".join(steps))
            while name in named or not name.isidentifier():
                name = f"input_{name}"
            named[name] = leaf
    return named


def traced(
    portable: Portable, tensors: Sequence[Tensor], batched: Sequence[bool], *, max_batch: int | None
) -> torch.export.ExportedProgram:
    """Trace the network; `max_batch` bounds the size of a free batch, None fixes the size.

    Raises ValueError if torch.export does not get through, or not with a free batch size.
    """
    args, kwargs = portable.arguments(tensors)

    def program(max_batch: int | None) -> torch.export.ExportedProgram:
        free = {0: torch.export.Dim("batch", max=max_batch)} if max_batch is not None else None
        shapes = {name: free if free and each else None for name, each in zip(portable.names, batched, strict=True)}
        return torch.export.export(portable, args, kwargs, dynamic_shapes=shapes, strict=False)

    name = type(portable.network).__name__
    try:
        return program(max_batch)
    except Exception as error:
        if max_batch is None:
            raise ValueError(f"torch.export does not get through this {name}: {said(error)}") from error
        failure = error
    try:
        program(None)
    except Exception as error:
        raise ValueError(f"torch.export does not get through this {name}: {said(error)}") from error
    raise ValueError(
        f"this {name} is not exported with a free batch size: pass dynamic_batch=False, and the file takes batches of the "
        f"example's size alone. torch.export says: {said(failure)}"
    ) from failure


def said(error: Exception) -> str:
    """Return the class of an error and the beginning of what it says, on one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {textwrap.shorten(text, 300, placeholder=' …')}".rstrip(":. ")
