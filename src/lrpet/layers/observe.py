"""One observed forward pass: which layers a network has, what they cost, and which batch norm each one feeds.

Forward hooks watch the tensors themselves. A batch norm is a layer's partner when the tensor it consumes *is* the one the
layer produced, unchanged since; the order in which modules were declared plays no part. Likewise a weight that anything but
its own module computes with is seen by watching what is done to the weight.
"""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from lrpet.layers.matrix import can_rectify, is_batch_norm, is_counted, shape_of, tensors_of

Hook = Callable[[nn.Module, tuple[Any, ...], dict[str, Any], Any], None]


@dataclass(frozen=True)
class Layer:
    """What one forward pass showed of one module that holds parameters of two or more dimensions."""

    name: str
    module: nn.Module
    params: int
    """Weights and biases, shared ones at their first user only; 0 for modules that are not counted."""
    calls: int
    """How often its forward ran."""
    positions: int | Fraction
    """Output positions (pixels or tokens, times the batch) over all calls, their mean over the groups if they differ (query
    and key of an attention); 0 for modules that are not counted."""
    spatial_positions: int
    """Of a two-dimensional convolution: those of a kh×1 convolution with its vertical stride alone, over all calls."""
    macs: int
    """Multiply-adds over all calls; 0 for modules that are not counted."""
    batch_norm: str | None
    """Name of the batch norm that folds into this layer at inference."""
    unpaired: str | None
    """Why there is none though a batch norm takes this layer's output."""
    used_elsewhere: bool
    """Whether its weight was computed with outside its own forward."""
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
        self.norms = {name: module for name, module in model.named_modules() if is_batch_norm(module)}
        self.calls: dict[str, int] = defaultdict(int)
        self.positions: dict[str, int | Fraction] = defaultdict(int)
        self.spatial_positions: dict[str, int] = defaultdict(int)
        self.feeds: dict[str, list[str]] = defaultdict(list)  # layer → norms that consumed its output
        self.fed_by: dict[str, list[str | None]] = defaultdict(list)  # norm → layers whose output it consumed
        self.outputs: dict[int, tuple[weakref.ref[Tensor], int, str]] = {}
        self.uses = _WeightUses(self.modules)

    @contextmanager
    def hooked(self) -> Iterator[None]:
        handles = []
        try:
            for name, module in self.modules.items():
                handles.append(module.register_forward_pre_hook(lambda module, _: self.uses.running.append(module)))
                seen = self._after_attention(name) if isinstance(module, nn.MultiheadAttention) else self._after(name)
                handles.append(module.register_forward_hook(seen, with_kwargs=True))
            for name, module in self.norms.items():
                handles.append(module.register_forward_pre_hook(self._before_norm(name), with_kwargs=True))
            with self.uses:
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _after(self, name: str) -> Hook:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            self.uses.running.pop()
            self.calls[name] += 1
            if not (is_counted(module) and isinstance(output, Tensor)):
                return
            x = (*args, *kwargs.values())[0]
            if isinstance(module, _ConvTransposeNd):
                self.positions[name] += x.numel() // max(1, module.in_channels)
            elif isinstance(module, _ConvNd):
                self.positions[name] += output.numel() // max(1, module.out_channels)
            else:
                self.positions[name] += output.shape[:-1].numel()
            if isinstance(module, nn.Conv2d):
                self.spatial_positions[name] += output[..., 0].numel() // max(1, module.out_channels) * x.shape[-1]
            if not output.is_inference():  # such a tensor does not tell whether it has been written to
                self.outputs[id(output)] = (weakref.ref(output), output._version, name)

        return hook

    def _after_attention(self, name: str) -> Hook:
        """An attention runs its output projection itself, by its weight."""

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            self.uses.running.pop()
            given = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
            query, key, value = (given[each].shape[:-1].numel() for each in ("query", "key", "value"))
            for each, positions in ((name, Fraction(query + key + value, 3)), (f"{name}.out_proj", query)):
                self.calls[each] += 1
                self.positions[each] += positions

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
        if not isinstance(self.modules[layer], _ConvNd) and tensor.dim() != 2:
            return None  # a batch norm's channels are dimension 1, a linear's features the last
        return layer

    def _partner(self, layer: str) -> tuple[str | None, str | None]:
        """The batch norm that folds into this layer; or else why the one that takes its output does not."""
        norms = sorted(set(self.feeds[layer]))
        if not norms:
            return None, None
        (norm, *others) = norms
        if others:
            return None, f"it feeds {len(norms)} batch norms"
        if len(self.feeds[layer]) != self.calls[layer]:
            return None, f"{norm} does not take all of its outputs"
        if set(self.fed_by[norm]) != {layer}:
            return None, f"{norm} takes the output of others too"
        if not can_rectify(self.norms[norm]):
            return None, f"{norm} keeps no running statistics"
        return norm, None

    def layers(self) -> list[Layer]:
        users: dict[int, list[str]] = defaultdict(list)
        for name, module in self.modules.items():
            for parameter in module._parameters.values():
                if parameter is not None:
                    users[id(parameter)].append(name)
        counted: set[int] = set()

        def layer(name: str) -> Layer:
            module = self.modules[name]
            sizes, macs = 0, 0
            if is_counted(module):
                sizes = sum(tensor.numel() for tensor in tensors_of(module) if id(tensor) not in counted)
                counted.update(id(parameter) for parameter in module._parameters.values())
                shape = shape_of(module)
                macs = int(self.positions.get(name, 0) * shape.rows * shape.columns)
            partner, unpaired = self._partner(name)
            sharers = users[id(module._parameters.get("weight", module._parameters.get("in_proj_weight")))]
            return Layer(
                name=name,
                module=module,
                params=sizes,
                calls=self.calls.get(name, 0),
                positions=self.positions.get(name, 0),
                spatial_positions=self.spatial_positions.get(name, 0),
                macs=macs,
                batch_norm=partner,
                unpaired=unpaired,
                used_elsewhere=name in self.uses.elsewhere,
                shares_weight_with=tuple(other for other in sharers if other != name),
            )

        return [layer(name) for name in (*self.calls, *(name for name in self.modules if name not in self.calls))]


class _WeightUses(TorchFunctionMode):
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


def _has_matrix(module: nn.Module) -> bool:
    return is_counted(module) or any(p is not None and p.dim() >= 2 for p in module._parameters.values())


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
