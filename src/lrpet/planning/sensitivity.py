"""What the singular values of every layer are worth to the loss, from some batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from torch import Tensor, nn

from lrpet.layers.matrix import row_scale, scale_of_rows, unfold, weight_of
from lrpet.planning.plan import Plan

Batch = TypeVar("Batch")


def sensitivity(
    model: nn.Module, plan: Plan, batches: Iterable[Batch], loss: Callable[[nn.Module, Batch], Tensor]
) -> dict[str, list[float]]:
    """{layer name: worth of its 1st, 2nd, … singular value}, for `lrpet.plan(allocate=...)`.

    Pruning the i-th singular value takes W·vᵢ·vᵢᵀ away from the weight W, vᵢ the right singular vectors of W with its batch
    norm folded in. To first order the loss changes by ⟨G, W·vᵢ·vᵢᵀ⟩, G its gradient. At a minimum these changes average to
    nothing, and half of their mean square over batches is the change to second order, the Fisher information standing for
    the Hessian:

        worth(i) = mean over batches of ⟨G·vᵢ, W·vᵢ⟩²        (summed over the groups of a convolution)

    Args:
        model: In eval mode while this lasts, and without changes: parameters, their gradients, mode.
        plan: Which layers, whatever their ranks; for all that can be factorised, one of `keep=1.0, factorize_all=True`.
        batches: Some of the training data, a hundred or so.
        loss: Of a model on a batch, a scalar tensor.

    Raises ValueError without batches, if the plan is another network's, or if the loss or a gradient is not finite.
    """
    layers = plan.modules(model)
    entries = {layer.name: layer for layer in plan.layers}
    weights = [weight_of(module) for module in layers.values()]
    directions, images, worths = {}, {}, {}
    for name, module in layers.items():
        matrices = _wide(unfold(module, entries[name].unfolding).detach())
        partner = entries[name].batch_norm
        folded = matrices
        if partner is not None:
            alpha = row_scale(model.get_submodule(partner)).to(matrices.dtype)
            folded = scale_of_rows(alpha, module, entries[name].unfolding)[..., None] * matrices
        directions[name] = torch.linalg.svd(folded, full_matrices=False).Vh.mT
        images[name] = matrices @ directions[name]
        worths[name] = matrices.new_zeros(directions[name].shape[-1])
    modes = [(module, module.training) for module in model.modules()]
    needs = [weight.requires_grad for weight in weights]
    count = 0
    try:
        model.eval()
        for weight in weights:
            weight.requires_grad_(True)
        for batch in batches:
            with torch.enable_grad():
                value = loss(model, batch)
                gradients = torch.autograd.grad(value, weights, allow_unused=True)
            if not bool(value.isfinite()):
                raise ValueError(f"the loss of batch {count + 1} is {value.item()}")
            count += 1
            for (name, module), gradient in zip(layers.items(), gradients, strict=True):
                if gradient is not None:
                    along = _wide(unfold(module, entries[name].unfolding, of=gradient)) @ directions[name]
                    worths[name] += (along * images[name]).sum(1).square().sum(0)
    finally:
        for weight, need in zip(weights, needs, strict=True):
            weight.requires_grad_(need)
        for module, training in modes:
            module.training = training
    if not count:
        raise ValueError("sensitivity needs at least one batch; got none")
    bad = [name for name, worth in worths.items() if not bool(worth.isfinite().all())]
    if bad:
        raise ValueError(f"the gradient of {', '.join(bad)} is not finite")
    return {name: (worth / count).tolist() for name, worth in worths.items()}


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
