"""One observed forward pass: which layers a network has, what they cost, and which batch norm each one feeds.

Forward hooks watch the tensors themselves. A batch norm is a layer's partner when the tensor it consumes *is* the one the
layer produced, unchanged since; the order in which modules were declared plays no part. A weight that anything but its own
module computes with is seen by watching what is done to the weight.
"""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lrpet.layers.attention import attended, output_name
from lrpet.layers.batch_norm import can_rectify, is_batch_norm
from lrpet.layers.convolution import is_convolution
from lrpet.layers.inputs import Inputs
from lrpet.layers.kinds import layer_of, layers_of
from lrpet.layers.matrix import Call, MatrixLayer, Unfolding
from lrpet.layers.watching import ONE_AT_A_TIME, Products, WeightUses, left_as_found

Hook = Callable[[nn.Module, tuple[Any, ...], dict[str, Any], Any], None]


@dataclass(frozen=True)
class Observed:
    """What one forward pass showed of one module that holds parameters of two or more dimensions."""

    name: str
    module: nn.Module
    layer: MatrixLayer | None
    """The module as matrices; None for kinds that have none, such as embeddings."""
    params: int
    """Parameters of the module itself, shared ones at their first user only."""
    macs: int
    """Multiply-adds over all calls; 0 without matrices."""
    calls: int
    """How often its forward ran."""
    shapes: tuple[Call, ...]
    """Shapes of the calls that took and gave tensors; empty where `layer` is None."""
    batch_norm: str | None
    """Name of the batch norm that folds into this layer at inference."""
    unpaired: str | None
    """Why there is none though a batch norm takes this layer's output."""
    used_elsewhere: bool
    """Whether its weight was computed with outside its own forward."""
    shares_weight_with: tuple[str, ...]
    """Names of other modules that use the very same weight."""

    def at(self, unfolding: Unfolding) -> MatrixLayer:
        """Return the layer in this unfolding."""
        assert self.layer is not None
        if unfolding == self.layer.unfolding:
            return self.layer
        layer = layer_of(self.module, self.name, unfolding=unfolding)
        assert layer is not None
        return layer

    def positions(self, unfolding: Unfolding = "channel") -> int | Fraction:
        """Return the output positions over all calls; 0 without matrices."""
        return sum(self.at(unfolding).positions(call) for call in self.shapes)

    def first_positions(self, unfolding: Unfolding = "channel") -> int | Fraction:
        """Return the positions of the first factor over all calls."""
        return sum(self.at(unfolding).first_positions(call) for call in self.shapes)


@dataclass(frozen=True)
class Observation:
    """The layers of a network in order of first use, and what all of it costs."""

    layers: tuple[Observed, ...]
    macs: int
    """Multiply-adds of every matrix product and convolution, attention's included."""
    params: int
    """All parameters, shared ones once."""
    bytes: int
    """Bytes of all parameters and buffers, shared ones once."""


def observe(model: nn.Module, example_inputs: Any) -> Observation:
    """Run `model` once on `example_inputs`, in eval mode without gradients, and return what was seen.

    `example_inputs`: a tuple is spread as positional arguments, a mapping as keyword arguments, anything else is passed as
    the only argument. Costs are those of this one call: give a batch of one for the cost of one example. Layers that did
    not run come last. The model is left as it was found: mode of every module, buffers, hooks, torch's random state.

    One network is observed at a time, so that several threads may plan.

    Raises ValueError for lazy (uninitialised) or meta parameters and buffers, and for meta inputs.
    """
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise ValueError(f"{name!r} is lazy and has no shape yet: run the model once before planning")
        if tensor.is_meta:
            raise ValueError(f"{name!r} is on the meta device: materialise the model before planning")
    inputs = Inputs.of(example_inputs)
    if any(tensor.is_meta for tensor in inputs.tensors):
        raise ValueError("example_inputs are on the meta device, where nothing is computed: give real ones")
    watch = _Watch(model)
    with ONE_AT_A_TIME, left_as_found(model), watch.hooked(), Products() as products:
        inputs.run(model)
        layers = watch.layers()
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return Observation(
        layers,
        macs=max(products.macs, sum(layer.macs for layer in layers)),
        params=sum(parameter.numel() for parameter in model.parameters()),
        bytes=sum(tensor.nbytes for tensor in tensors.values()),
    )


class _Watch:
    """The hooks of one observed pass, and what they saw."""

    def __init__(self, model: nn.Module) -> None:
        self.matrix_layers = layers_of(model)
        self.modules = {name: m for name, m in model.named_modules() if name in self.matrix_layers or _has_matrix(m)}
        self.norms = {name: module for name, module in model.named_modules() if is_batch_norm(module)}
        self.calls: dict[str, int] = defaultdict(int)
        self.shapes: dict[str, list[Call]] = defaultdict(list)
        self.feeds: dict[str, list[str]] = defaultdict(list)  # layer → norms that consumed its output
        self.fed_by: dict[str, list[str | None]] = defaultdict(list)  # norm → layers whose output it consumed
        self.outputs: dict[int, tuple[weakref.ref[Tensor], int, str]] = {}
        self.uses = WeightUses(self.modules)

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
            if name not in self.matrix_layers or not isinstance(output, Tensor):
                return
            self.shapes[name].append(Call(((*args, *kwargs.values())[0].shape,), output.shape))
            if not output.is_inference():  # such a tensor does not tell whether it has been written to
                self.outputs[id(output)] = (weakref.ref(output), output._version, name)

        return hook

    def _after_attention(self, name: str) -> Hook:
        """Return the hook of an attention, which runs its output projection itself, by its weight."""

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            self.uses.running.pop()
            query, key, value = attended(args, kwargs)
            call = Call((query.shape, key.shape, value.shape), query.shape)
            for each in (name, output_name(name)):
                self.calls[each] += 1
                self.shapes[each].append(call)

        return hook

    def _before_norm(self, name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            layer = self._producer((*args, *kwargs.values())[0])
            self.fed_by[name].append(layer)
            if layer is not None:
                self.feeds[layer].append(name)

        return hook

    def _producer(self, tensor: Any) -> str | None:
        """Return the name of the layer that produced exactly this tensor, if it has not been written to since."""
        if not isinstance(tensor, Tensor) or id(tensor) not in self.outputs:
            return None
        reference, version, layer = self.outputs[id(tensor)]
        if reference() is not tensor or tensor._version != version:
            return None
        if not is_convolution(self.modules[layer]) and tensor.dim() != 2:
            return None  # a batch norm's channels are dimension 1, a linear's features the last
        return layer

    def _partner(self, layer: str) -> tuple[str | None, str | None]:
        """Return the batch norm that folds into this layer, or why the one that takes its output does not."""
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

    def layers(self) -> tuple[Observed, ...]:
        """Return what was seen of every module, in order of first use."""
        order = [*self.calls, *(name for name in self.modules if name not in self.calls)]
        users: dict[int, list[str]] = defaultdict(list)
        for name, module in self.modules.items():
            for parameter in module._parameters.values():
                if parameter is not None:
                    users[id(parameter)].append(name)
        params = self._params(order)
        return tuple(self._observed(name, params[name], users) for name in order)

    def _params(self, order: list[str]) -> dict[str, int]:
        """Return {module name: its parameters}, shared ones at their first user, layers with matrices first."""
        params: dict[str, int] = {}
        counted: set[int] = set()
        for name in sorted(order, key=lambda name: name not in self.matrix_layers):
            layer, module = self.matrix_layers.get(name), self.modules[name]
            own = [p for p in module._parameters.values() if p is not None]
            tensors = own if layer is None else layer.tensors()
            params[name] = sum(tensor.numel() for tensor in tensors if id(tensor) not in counted)
            counted.update(id(parameter) for parameter in own)
        return params

    def _observed(self, name: str, params: int, users: Mapping[int, list[str]]) -> Observed:
        module = self.modules[name]
        partner, unpaired = self._partner(name)
        weight = module._parameters.get("weight", module._parameters.get("in_proj_weight"))
        layer, shapes = self.matrix_layers.get(name), tuple(self.shapes.get(name, ()))
        size = 0 if layer is None else layer.shape.rows * layer.shape.columns
        positions = 0 if layer is None else sum(layer.positions(call) for call in shapes)
        return Observed(
            name=name,
            module=module,
            layer=layer,
            params=params,
            macs=int(positions * size),
            calls=self.calls.get(name, 0),
            shapes=shapes,
            batch_norm=partner,
            unpaired=unpaired,
            used_elsewhere=name in self.uses.elsewhere,
            shares_weight_with=tuple(other for other in users.get(id(weight), ()) if other != name),
        )


def _has_matrix(module: nn.Module) -> bool:
    return any(p is not None and p.dim() >= 2 for p in module._parameters.values())
