"""Whether a network holds numbers that can be computed with: real ones, finite, and no negative variances."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from lrpet.layers.batch_norm import is_batch_norm
from lrpet.layers.matrix import MatrixLayer

#: At most so many tensors are named in a message.
_NAMED = 5


def check_layer(layer: MatrixLayer) -> None:
    """Raise ValueError if a layer's weight, or the batch norm that folds into it, is not sound."""
    check_materialised([layer])
    norm = layer.batch_norm
    if not is_finite(layer.weight) or (norm is not None and list(_unsound_tensors(norm))):
        raise ValueError(
            f"NaN or Inf in the weight or batch norm of {layer.name!r}, or a negative variance: nothing can be computed from "
            "it. If it was being trained, training has diverged"
        )


def check_network(model: nn.Module, what: str) -> None:
    """Raise ValueError if a parameter or a statistic of a batch norm is not sound; `what` says what cannot be done.

    Other buffers hold what they like: masks hold Inf.
    """
    bad = [
        f"{name}.{tensor}".removeprefix(".")
        for name, module in model.named_modules()
        for tensor in _unsound_tensors(module)
    ]
    if bad:
        named = ", ".join(bad[:_NAMED]) + (f" and {len(bad) - _NAMED} more" if len(bad) > _NAMED else "")
        raise ValueError(
            f"NaN or Inf, or a negative variance, in {named}: {what}. If the network was being trained, training has diverged: "
            "go back to an earlier checkpoint"
        )


def check_materialised(layers: Iterable[MatrixLayer]) -> None:
    """Raise ValueError for a weight on the meta device, which holds no numbers yet."""
    for layer in layers:
        if layer.weight.is_meta:
            raise ValueError(f"the weight of {layer.name!r} is on the meta device: materialise the model first")


def check_changeable(layers: Iterable[MatrixLayer]) -> None:
    """Raise ValueError for a weight that can never be changed in place, because it is an inference tensor."""
    for layer in layers:
        if layer.weight.is_inference():
            raise ValueError(
                f"the weight of {layer.name!r} was made in torch.inference_mode, and cannot be changed: make or load the "
                "network outside of it, or take copy.deepcopy(model)"
            )


@torch.no_grad()
def is_finite(tensor: Tensor) -> bool:
    """Tell whether a tensor of any dtype holds neither NaN nor Inf. On the meta device, or quantised, it is not looked at."""
    plain = not (tensor.is_meta or is_traceable_wrapper_subclass(tensor))
    if not plain or not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    return bool((tensor.float() if tensor.element_size() == 1 else tensor).isfinite().all())


def sound_variance(variance: Tensor) -> Tensor:
    """Tell of each variance whether it is one: finite, and not negative."""
    return variance.isfinite() & (variance >= 0)


def magnitude(tensor: Tensor) -> float:
    """Return the power of four at or below the largest entry, by which a division is exact; 1 where all entries are 0."""
    largest = float(tensor.detach().abs().max())
    exponent = math.frexp(largest)[1] - 1
    return 2.0 ** (exponent // 2 * 2) if largest else 1.0


def _unsound_tensors(module: nn.Module) -> Iterable[str]:
    """Yield the names of the module's own tensors that are not sound."""
    own: dict[str, Tensor | None] = dict(module._parameters)
    if is_batch_norm(module):
        own |= {name: tensor for name, tensor in module._buffers.items() if name != "num_batches_tracked"}
    for name, tensor in own.items():
        if tensor is None or is_lazy(tensor):
            continue
        if not is_finite(tensor) or (
            name == "running_var" and not tensor.is_meta and not bool(sound_variance(tensor).all())
        ):
            yield name
