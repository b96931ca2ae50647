"""Batch norms that become part of the layers before them, for networks that no longer train."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from lrpet.layers.batch_norm import row_scale
from lrpet.layers.inputs import Inputs
from lrpet.layers.matrix import MatrixLayer, path_of
from lrpet.layers.observe import observe
from lrpet.layers.watching import left_as_found

#: timm's batch norms with an activation: what is left of one is its drop-out and its activation.
_WITH_ACTIVATION = tuple(f"timm.layers.norm_act.{each}BatchNormAct" for each in ("", "Sync", "Frozen"))


@torch.no_grad()
def fold_batch_norms_(model: nn.Module, example_inputs: Any) -> tuple[str, ...]:
    """Fold every batch norm into the layer before it, where eval mode then computes what it did.

    In a factor pair that layer is the second factor. A batch norm is folded if all it takes is the output of one layer, and
    nothing else takes that output: an observed forward pass tells. Other batch norms are left alone.

    Returns:
        The names of the batch norms that are gone.
    """
    modules = dict(model.named_modules())
    pairs = {
        each.name: (each.layer, each.batch_norm)
        for each in observe(model, example_inputs).layers
        if each.layer is not None
        and each.batch_norm is not None
        and not (each.used_elsewhere or each.shares_weight_with)
        and _can_scale(each.layer)
        and _remainder(modules[each.batch_norm]) is not None
    }
    taken = _taken_elsewhere(model, example_inputs, {name: modules[norm] for name, (_, norm) in pairs.items()})
    folded = [pair for name, pair in pairs.items() if name not in taken]
    for layer, norm in folded:
        _fold_(layer, modules[norm])
    gone = {id(modules[norm]) for _, norm in folded}
    for module in list(model.modules()):
        for name, child in module._modules.items():
            if child is not None and id(child) in gone:
                module._modules[name] = _remainder(child)
    return tuple(norm for _, norm in folded)


def _can_scale(layer: MatrixLayer) -> bool:
    """Whether the rows of the weight can be scaled: it is a plain parameter, and the forward is linear in it."""
    return not (
        parametrize.is_parametrized(layer.module) or layer.has_own_forward() or not layer.weight.is_floating_point()
    )


def _remainder(norm: nn.Module) -> nn.Module | None:
    """Return what is left of a batch norm once it is folded; None if its forward does something that is not known."""
    kind = type(norm)
    if path_of(kind).removesuffix("2d") in _WITH_ACTIVATION:
        return nn.Sequential(norm.drop, norm.act).train(norm.training)  # type: ignore[arg-type]
    plain = (nn.modules.batchnorm._BatchNorm.forward, nn.SyncBatchNorm.forward)
    return nn.Identity() if kind.__name__ == "FrozenBatchNorm2d" or kind.forward in plain else None


def _fold_(layer: MatrixLayer, norm: Any) -> None:
    """Scale the rows of the layer's weight and set its bias, so that it computes what layer and batch norm did."""
    scale = row_scale(norm).double()
    shift = -norm.running_mean.double() * scale
    if norm.bias is not None:
        shift += norm.bias.double()
    if layer.bias is not None:
        shift += layer.bias.double() * scale
    weight = layer.weight
    layer.write_((layer.matrices().double() * layer.rows(scale)[..., None]).to(weight.dtype))
    layer.module.bias = nn.Parameter(shift.to(weight.dtype), requires_grad=weight.requires_grad)


def _taken_elsewhere(model: nn.Module, example_inputs: Any, norms: Mapping[str, nn.Module]) -> set[str]:
    """Return the layers whose outputs are computed with outside their batch norms, or returned by the network."""
    watch = _Outputs(norms)
    with left_as_found(model), watch.hooked(model), watch:
        result = Inputs.of(example_inputs).run(model)
    watch.took(tree_leaves(result))
    return watch.elsewhere


class _Outputs(TorchFunctionMode):
    """Watches what computes with the outputs of layers besides their batch norms."""

    def __init__(self, norms: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.elsewhere: set[str] = set()
        self._norms = norms
        self._running: list[nn.Module] = []
        self._outputs: dict[int, tuple[weakref.ref[Tensor], str]] = {}

    def took(self, leaves: list[Any]) -> None:
        """Note which layers' outputs are among these values."""
        for leaf in leaves:
            if isinstance(leaf, Tensor) and id(leaf) in self._outputs:
                reference, name = self._outputs[id(leaf)]
                if reference() is leaf and self._norms[name] not in self._running:
                    self.elsewhere.add(name)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(result)):  # a look at a shape or a dtype is no use
            self.took(tree_leaves((args, kwargs)))
        return result

    @contextmanager
    def hooked(self, model: nn.Module) -> Iterator[None]:
        """Follow the layers and their batch norms inside the block."""

        def produced(name: str) -> Any:
            def hook(module: nn.Module, args: Any, output: Any) -> None:
                if isinstance(output, Tensor):
                    self._outputs[id(output)] = (weakref.ref(output), name)

            return hook

        def ended(module: nn.Module, args: Any, output: Any) -> None:
            self._running.pop()

        handles = []
        for name, norm in self._norms.items():
            handles.append(model.get_submodule(name).register_forward_hook(produced(name)))
            handles.append(norm.register_forward_pre_hook(lambda module, _: self._running.append(module)))
            handles.append(norm.register_forward_hook(ended))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
