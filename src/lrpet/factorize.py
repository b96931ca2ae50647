"""Full-size model → compact model, of plain PyTorch layers."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lrpet.matrix import FACTORIZABLE, as_matrices, groups_of, row_scale
from lrpet.plan import Plan
from lrpet.projection import project

M = TypeVar("M", bound=nn.Module)
Factorizable = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear


def factorize(model: nn.Module, plan: Plan) -> nn.Module:
    """A copy of `model` in which every planned layer is two thin ones; `model` itself is untouched.

    A convolution n×c×k×k becomes a k×k convolution c→r (√Σ·Vᵀ; the original stride, padding and dilation, no bias) followed
    by a 1×1 convolution r→n (U·√Σ, the original bias), in one, two or three dimensions; a linear c→n becomes c→r, r→n
    likewise. A convolution in g groups becomes two in g groups, c→g·r and g·r→n. Dtype, device, training mode
    and `requires_grad` are kept. What the weight still has beyond rank r is cut off, so project first.

    A dead layer (largest singular value below 1e-4) is factorised like any other, and reported by a warning.

    Raises ValueError if the plan is another network's, or a weight or its batch norm holds NaN or Inf.
    """
    layers = plan.modules(model)
    partners = {layer.name: layer.batch_norm for layer in plan.layers}
    pairs: dict[str, nn.Sequential] = {}
    dead = []
    for name, module in layers.items():
        partner = partners[name]
        scale = row_scale(model.get_submodule(partner)) if partner is not None else None
        pairs[name], is_dead = _factor_pair(name, module, plan.ranks[name], scale)
        if is_dead:
            dead.append(name)
    if dead:
        warnings.warn(f"dead layers (largest singular value below 1e-4), kept: {', '.join(dead)}", stacklevel=2)
    compact = replaced(model, pairs)
    compact.lrpet_plan = plan  # type: ignore[assignment]
    return compact


def skeleton(model: nn.Module, plan: Plan) -> nn.Module:
    """A copy of `model` with the structure `factorize` gives, its factors uninitialised. Raises ValueError like it."""
    pairs: dict[str, nn.Module] = {}
    for name, module in plan.modules(model).items():
        assert isinstance(module, FACTORIZABLE)
        pairs[name] = nn.Sequential(*_empty_pair(module, plan.ranks[name])).train(module.training)
    compact = replaced(model, pairs)
    compact.lrpet_plan = plan  # type: ignore[assignment]
    return compact


def replaced(model: nn.Module, replacements: Mapping[str, nn.Module]) -> nn.Module:
    """A deep copy of `model` with the named modules replaced, wherever they appear in it; the old ones are not copied."""
    memo = {id(model.get_submodule(name)): module for name, module in replacements.items()}
    copied = copy.deepcopy(model, memo)
    for module in copied.modules():
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor &= not any(_lost_linears(layer) for layer in module.layers)
        if isinstance(module, nn.TransformerEncoderLayer) and _lost_linears(module):
            module.activation_relu_or_gelu = 0  # none of those that the fast path knows
    return copied


def _lost_linears(module: nn.Module) -> bool:
    """Whether this is an nn.TransformerEncoderLayer whose fast path in eval mode would read a factorised linear's weight."""
    return isinstance(module, nn.TransformerEncoderLayer) and not (
        isinstance(module.linear1, nn.Linear) and isinstance(module.linear2, nn.Linear)
    )


@torch.no_grad()
def _factor_pair(name: str, module: nn.Module, rank: int, scale: Tensor | None) -> tuple[nn.Sequential, bool]:
    assert isinstance(module, FACTORIZABLE)
    if not (module.weight.isfinite().all() and (scale is None or scale.isfinite().all())):
        raise ValueError(f"NaN or Inf in the weight or batch norm of {name!r}: nothing can be factorised from it")
    weight = module.weight.to(torch.promote_types(module.weight.dtype, torch.float32))
    groups = groups_of(module)
    scale = None if scale is None else scale.view(groups, -1)
    truncated = project(as_matrices(weight, groups), rank, row_scale=scale, energy_transfer=False)
    # W ≈ U·Σ·Vᵀ; both factors take √Σ, so that neither is much larger than the other.
    left, singular_values, right = torch.linalg.svd(truncated.matrix, full_matrices=False)
    root = singular_values[:, :rank].sqrt()
    first, second = _empty_pair(module, rank)
    first.weight.copy_((root[..., None] * right[:, :rank]).reshape(first.weight.shape))
    second.weight.copy_((left[..., :rank] * root[:, None]).reshape(second.weight.shape))
    if module.bias is not None:
        assert second.bias is not None
        second.bias.copy_(module.bias)
    return nn.Sequential(first, second).train(module.training), bool(truncated.dead.all())


def _empty_pair(module: Factorizable, rank: int) -> tuple[Factorizable, Factorizable]:
    """Uninitialised factor layers for `module`, like it in dtype, device and requires_grad."""
    like: dict[str, Any] = {"device": module.weight.device, "dtype": module.weight.dtype}
    bias = module.bias is not None
    pair: tuple[Factorizable, Factorizable]
    if isinstance(module, nn.Linear):
        pair = (
            _uninitialised(nn.Linear, module.in_features, rank, bias=False, **like),
            _uninitialised(nn.Linear, rank, module.out_features, bias=bias, **like),
        )
    else:
        kind: Any = next(kind for kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d) if isinstance(module, kind))
        inner, like["groups"] = rank * module.groups, module.groups
        geometry: dict[str, Any] = {
            name: getattr(module, name) for name in ("kernel_size", "stride", "padding", "dilation", "padding_mode")
        }
        pair = (
            _uninitialised(kind, module.in_channels, inner, **geometry, bias=False, **like),
            _uninitialised(kind, inner, module.out_channels, 1, bias=bias, **like),
        )
    for factor in pair:
        factor.weight.requires_grad_(module.weight.requires_grad)
    if module.bias is not None:
        assert pair[1].bias is not None
        pair[1].bias.requires_grad_(module.bias.requires_grad)
    return pair


def _uninitialised(kind: type[M], *args: Any, **kwargs: Any) -> M:
    module: M = nn.utils.skip_init(kind, *args, **kwargs)  # type: ignore[no-untyped-call]
    return module
