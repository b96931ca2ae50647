"""One observed forward pass: which layers a network has, what they cost, and which batch norm each one feeds.

Forward hooks watch the tensors themselves. A batch norm is a layer's partner when the tensor it consumes *is* the one the
layer produced, unchanged since; the order in which modules were declared plays no part.
"""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from lrpet.matrix import COUNTED, can_rectify, matrix_shape


@dataclass(frozen=True)
class Layer:
    """What one forward pass showed of one module that holds parameters of two or more dimensions."""

    name: str
    module: nn.Module
    rows: int
    columns: int
    """Shape of its weight as a matrix; 0 × 0 for modules that are not counted (see `lrpet.matrix.COUNTED`)."""
    params: int
    """Weights and biases, shared ones at their first user only; 0 for modules that are not counted."""
    calls: int
    """How often its forward ran."""
    positions: int
    """Output positions (pixels or tokens, times the batch) over all calls; 0 for modules that are not counted."""
    macs: int
    """Multiply-adds over all calls; 0 for modules that are not counted."""
    batch_norm: str | None
    """Name of the batch norm that folds into this layer at inference."""
    shares_weight_with: tuple[str, ...]
    """Names of other modules that use the very same weight."""


def profile(model: nn.Module, example_inputs: Any) -> list[Layer]:
    """Run `model` once on `example_inputs`, in eval mode without gradients, and return its layers in order of first use.

    `example_inputs`: a tuple is spread as positional arguments, a mapping as keyword arguments, anything else is passed as
    the only argument. Costs are those of this one call: give a batch of one for the cost of one example. Layers that did
    not run come last. The model is left as it was found: mode of every module, buffers, hooks, torch's random state.

    Raises ValueError for lazy (uninitialised) or meta parameters and buffers.
    """
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise ValueError(f"{name!r} is lazy and has no shape yet: run the model once before planning")
        if tensor.is_meta:
            raise ValueError(f"{name!r} is on the meta device: materialise the model before planning")
    watch = _Watch(model)
    with _left_as_found(model), watch.hooked():
        if isinstance(example_inputs, Mapping):
            model(**example_inputs)
        elif isinstance(example_inputs, tuple):
            model(*example_inputs)
        else:
            model(example_inputs)
        return watch.layers()


class _Watch:
    """The hooks of one observed pass, and what they saw."""

    def __init__(self, model: nn.Module) -> None:
        self.modules = {name: module for name, module in model.named_modules() if _has_matrix(module)}
        self.norms = {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}
        self.calls: dict[str, int] = defaultdict(int)
        self.positions: dict[str, int] = defaultdict(int)
        self.macs: dict[str, int] = defaultdict(int)
        self.feeds: dict[str, list[str]] = defaultdict(list)  # layer → norms that consumed its output
        self.fed_by: dict[str, list[str | None]] = defaultdict(list)  # norm → layers whose output it consumed
        self.outputs: dict[int, tuple[weakref.ref[Tensor], int, str]] = {}

    @contextmanager
    def hooked(self) -> Iterator[None]:
        handles = []
        try:
            for name, module in self.modules.items():
                handles.append(module.register_forward_hook(self._after_layer(name), with_kwargs=True))
            for name, module in self.norms.items():
                handles.append(module.register_forward_pre_hook(self._before_norm(name), with_kwargs=True))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _after_layer(self, name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            self.calls[name] += 1
            if isinstance(module, COUNTED) and isinstance(output, Tensor):
                rows, columns = matrix_shape(module)
                transposed = isinstance(module, nn.modules.conv._ConvTransposeNd)
                positions = ((*args, *kwargs.values())[0] if transposed else output).numel() // max(1, rows)
                self.positions[name] += positions
                self.macs[name] += positions * rows * columns
                if not output.is_inference():  # such a tensor does not tell whether it has been written to
                    self.outputs[id(output)] = (weakref.ref(output), output._version, name)

        return hook

    def _before_norm(self, name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            layer = self._producer((*args, *kwargs.values())[0])
            self.fed_by[name].append(layer)
            if layer is not None:
                self.feeds[layer].append(name)

        return hook

    def _producer(self, tensor: Any) -> str | None:
        """Name of the layer that produced exactly this tensor, if it has not been written to since."""
        if not isinstance(tensor, Tensor) or id(tensor) not in self.outputs:
            return None
        reference, version, layer = self.outputs[id(tensor)]
        if reference() is not tensor or tensor._version != version:
            return None
        if isinstance(self.modules[layer], nn.Linear) and tensor.dim() != 2:
            return None  # a batch norm's channels are dimension 1, a linear's features the last
        return layer

    def _partner(self, layer: str) -> str | None:
        norms = set(self.feeds[layer])
        if len(norms) != 1 or len(self.feeds[layer]) != self.calls[layer]:
            return None
        (norm,) = norms
        return norm if set(self.fed_by[norm]) == {layer} and can_rectify(self.norms[norm]) else None

    def layers(self) -> list[Layer]:
        users: dict[int, list[str]] = defaultdict(list)
        for name, module in self.modules.items():
            for parameter in module._parameters.values():
                if parameter is not None:
                    users[id(parameter)].append(name)
        counted: set[int] = set()

        def layer(name: str) -> Layer:
            module = self.modules[name]
            sizes, shape = 0, (0, 0)
            if isinstance(module, COUNTED):
                shape = matrix_shape(module)
                tensors = [tensor for tensor in (module.weight, module.bias) if tensor is not None]
                sizes = sum(tensor.numel() for tensor in tensors if id(tensor) not in counted)
                counted.update(id(parameter) for parameter in module._parameters.values())
            sharers = users[id(module._parameters.get("weight"))]
            return Layer(
                name=name,
                module=module,
                rows=shape[0],
                columns=shape[1],
                params=sizes,
                calls=self.calls.get(name, 0),
                positions=self.positions.get(name, 0),
                macs=self.macs.get(name, 0),
                batch_norm=self._partner(name),
                shares_weight_with=tuple(other for other in sharers if other != name),
            )

        return [layer(name) for name in (*self.calls, *(name for name in self.modules if name not in self.calls))]


def _has_matrix(module: nn.Module) -> bool:
    return isinstance(module, COUNTED) or any(p is not None and p.dim() >= 2 for p in module._parameters.values())


@contextmanager
def _left_as_found(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients inside; outside, every module's mode, every buffer and the random state as before."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(module, dict(module._buffers)) for module in model.modules()]
    values = [(buffer, buffer.clone()) for buffer in model.buffers()]
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    try:
        model.eval()
        with torch.random.fork_rng(devices=list(devices)), torch.inference_mode(False), torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
        for module, registered in buffers:
            module._buffers.clear()
            module._buffers.update(registered)
        with torch.no_grad():
            for buffer, before in values:
                if not torch.equal(buffer, before):
                    buffer.copy_(before)
