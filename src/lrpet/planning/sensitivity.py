"""The worth of each layer's singular values to the loss, from some batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lrpet.layers import evaluating
from lrpet.layers.sound import check_layer
from lrpet.layers.watching import ONE_AT_A_TIME
from lrpet.layers.wrapping import unwrapped
from lrpet.planning.plan import Plan

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Sensitivity:
    """What the singular values are worth to a loss over batches, whenever a plan asks for it."""

    batches: Iterable[Any]
    """Training batches, in a collection that can be gone through again."""
    loss: Callable[[nn.Module, Any], Tensor]
    """Loss of a model on a batch, a scalar tensor."""

    def __call__(self, model: nn.Module, plan: Plan) -> dict[str, list[float]]:
        """Return {layer name: worth of its 1st, 2nd, … singular value}, see `sensitivity`."""
        return sensitivity(model, plan, self.batches, self.loss)


def sensitivity(
    model: nn.Module, plan: Plan, batches: Iterable[Batch], loss: Callable[[nn.Module, Batch], Tensor]
) -> dict[str, list[float]]:
    """Return {layer name: worth of its 1st, 2nd, … singular value}, for `lrpet.plan(allocate=...)`.

    Pruning the i-th singular value takes W·vᵢ·vᵢᵀ away from the weight W, vᵢ the right singular vectors of W with its batch
    norm folded in. To first order the loss changes by ⟨G, W·vᵢ·vᵢᵀ⟩, G its gradient. At a minimum these changes average to
    nothing, and half of their mean square over batches is the change to second order, the Fisher information standing for
    the Hessian:

        worth(i) = mean over batches of ⟨G·vᵢ, W·vᵢ⟩²        (summed over the groups of a convolution)

    Args:
        model: The network, in eval mode meanwhile; its parameters, gradients and modes are unchanged afterwards.
        plan: The layers, whatever their ranks; for all that can be factorised, one of `keep=1.0, factorize_all=True`.
        batches: Some training data, a hundred batches or so.
        loss: `(model, batch) -> loss`, a scalar tensor.

    Raises ValueError without batches, if the plan is another network's, or if a weight, the loss or a gradient is not finite.
    """
    model = unwrapped(model)
    layers = plan.bind(model)
    if computed := [name for name, layer in layers.items() if layer.computed]:
        raise ValueError(f"the weights of {', '.join(computed)} are standardised, which sensitivity cannot see through")
    for layer in layers.values():
        check_layer(layer)
    weights = [layer.weight for layer in layers.values()]
    directions, images, worths = {}, {}, {}
    for name, layer in layers.items():
        matrices = _single(layer.matrices()).detach()
        directions[name] = torch.linalg.svd(layer.folded(matrices.dtype), full_matrices=False).Vh.mT
        images[name] = matrices @ directions[name]
        worths[name] = matrices.new_zeros(directions[name].shape[-1])
    count = 0
    with ONE_AT_A_TIME, evaluating(model), _requiring_gradients(weights):
        for count, batch in enumerate(batches, start=1):
            for (name, layer), gradient in zip(
                layers.items(), _gradients(model, batch, loss, weights, count), strict=True
            ):
                if gradient is not None:
                    along = _single(layer.matrices(gradient)) @ directions[name]
                    worths[name] += (along * images[name]).sum(1).square().sum(0)
    if not count:
        raise ValueError("sensitivity needs at least one batch; got none")
    bad = [name for name, worth in worths.items() if not bool(worth.isfinite().all())]
    if bad:
        raise ValueError(f"the gradient of {', '.join(bad)} is not finite")
    return {name: (worth / count).tolist() for name, worth in worths.items()}


def _gradients(
    model: nn.Module, batch: Batch, loss: Callable[[nn.Module, Batch], Tensor], weights: list[Tensor], number: int
) -> Sequence[Tensor | None]:
    with torch.enable_grad():
        value = loss(model, batch)
        gradients = torch.autograd.grad(value, weights, allow_unused=True)
    if not bool(value.isfinite()):
        raise ValueError(f"the loss of batch {number} is {value.item()}")
    return gradients


@contextmanager
def _requiring_gradients(weights: list[Tensor]) -> Iterator[None]:
    needs = [weight.requires_grad for weight in weights]
    try:
        for weight in weights:
            weight.requires_grad_(True)
        yield
    finally:
        for weight, need in zip(weights, needs, strict=True):
            weight.requires_grad_(need)


def _single(tensor: Tensor) -> Tensor:
    """Return the tensor in float32 at least."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
