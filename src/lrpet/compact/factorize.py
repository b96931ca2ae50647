"""Full-size model → compact model, of plain PyTorch layers."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lrpet.layers.attention import FactorizedAttention
from lrpet.layers.factors import Factors, empty_factors, fill_, share_
from lrpet.layers.matrix import bias_of, row_scale, scale_of_rows, unfold, weight_of
from lrpet.planning.plan import LayerPlan, Plan
from lrpet.projecting.matrices import full_precision
from lrpet.projecting.projection import project


def factorize(model: nn.Module, plan: Plan) -> nn.Module:
    """A copy of `model` in which every planned layer is two thin ones; `model` itself is untouched.

    W ≈ U·Σ·Vᵀ becomes √Σ·Vᵀ, then U·√Σ. Of a convolution that is one with its kernel, c→r (stride, padding and dilation of
    the original, no bias), then a 1×1 convolution r→n (with the original bias); `lrpet.layers.matrix` has the table of all
    layers. An `nn.MultiheadAttention` becomes a `lrpet.layers.attention.FactorizedAttention`. Layers that share a weight
    share its factors. Dtype, device, training mode and `requires_grad` are kept. What the weight still has
    beyond rank r is cut off, so project first.

    A dead layer (largest singular value below 1e-4) is factorised like any other, and reported by a warning.

    Raises ValueError if the plan is another network's, or a weight or its batch norm holds NaN or Inf.
    """
    layers = plan.modules(model)
    new = _structure(model, plan, layers)
    dead = []
    for layer in plan.layers:
        if layer.rank is None:
            continue
        module = layers[layer.name]
        left, right, is_dead = _split(layer, module, model)
        attention = new.get(layer.name.removesuffix(".out_proj"))
        if isinstance(attention, FactorizedAttention):
            pairs = attention.inputs if isinstance(module, nn.MultiheadAttention) else [attention.out_proj]
        else:
            pairs = [new[layer.name]]
        bias = bias_of(module)
        biases = [None] * len(pairs) if bias is None else bias.chunk(len(pairs))
        parts = zip(pairs, left.chunk(len(pairs)), right.chunk(len(pairs)), biases, strict=True)
        for pair, left_part, right_part, bias_part in parts:
            assert isinstance(pair, Factors)
            fill_(pair, left_part, right_part, bias_part)
        dead += [layer.name] if is_dead else []
    if dead:
        warnings.warn(f"dead layers (largest singular value below 1e-4), kept: {', '.join(dead)}", stacklevel=2)
    return _assembled(model, plan, new)


def skeleton(model: nn.Module, plan: Plan) -> nn.Module:
    """A copy of `model` with the structure `factorize` gives, its factors uninitialised. Raises ValueError like it."""
    return _assembled(model, plan, _structure(model, plan, plan.modules(model)))


def _structure(model: nn.Module, plan: Plan, layers: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """{name: what takes the place of this module}, the factors uninitialised."""
    unfoldings = {layer.name: layer.unfolding for layer in plan.layers}
    new: dict[str, nn.Module] = {}
    owners: dict[int, Factors] = {}
    for name, module in layers.items():
        parent = name.removesuffix(".out_proj")
        attention = model.get_submodule(parent)
        if isinstance(attention, nn.MultiheadAttention):
            if parent not in new:
                ranks = plan.ranks.get(parent), plan.ranks.get(f"{parent}.out_proj")
                new[parent] = FactorizedAttention(attention, *ranks)
            continue
        new[name] = pair = empty_factors(module, plan.ranks[name], unfoldings[name])
        if (owner := owners.setdefault(id(weight_of(module)), pair)) is not pair:
            share_(pair, owner)
    return new


def _assembled(model: nn.Module, plan: Plan, new: Mapping[str, nn.Module]) -> nn.Module:
    compact = replaced(model, new)
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
    """Whether this is an nn.TransformerEncoderLayer whose fast path in eval mode would read a factorised layer's weight."""
    return isinstance(module, nn.TransformerEncoderLayer) and not (
        isinstance(module.linear1, nn.Linear)
        and isinstance(module.linear2, nn.Linear)
        and isinstance(module.self_attn, nn.MultiheadAttention)
    )


@torch.no_grad()
def _split(layer: LayerPlan, module: nn.Module, model: nn.Module) -> tuple[Tensor, Tensor, bool]:
    """The factors U·√Σ, shape (groups, rows/groups, rank), and √Σ·Vᵀ, (groups, rank, columns); whether the layer is dead."""
    assert layer.rank is not None
    scale = None if layer.batch_norm is None else row_scale(model.get_submodule(layer.batch_norm))
    if not (weight_of(module).isfinite().all() and (scale is None or scale.isfinite().all())):
        raise ValueError(f"NaN or Inf in the weight or batch norm of {layer.name!r}: nothing can be factorised from it")
    matrices = unfold(module, layer.unfolding)
    matrices = matrices.to(torch.promote_types(matrices.dtype, torch.float32))
    rows = None if scale is None else scale_of_rows(scale, module, layer.unfolding)
    truncated = project(matrices, layer.rank, row_scale=rows, energy_transfer=False)
    # Both factors take √Σ, so that neither is much larger than the other.
    left, singular_values, right = _svd(truncated.matrix, layer.rank)
    root = singular_values[:, : layer.rank].sqrt()
    return left[..., : layer.rank] * root[:, None], root[..., None] * right[:, : layer.rank], bool(truncated.dead.all())


def _svd(matrices: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """U, σ, Vᵀ of matrices of no higher rank than `rank`, the leading ones at least.

    Such a matrix is as small as its rank within the span of its columns, and a few of their random combinations span that
    (Halko, Martinsson, Tropp 2011), so that the decomposition is of a (rank + 16) × columns matrix.
    """
    rows, columns = matrices.shape[1:]
    few = rank + 16
    if 2 * few >= min(rows, columns):
        return torch.linalg.svd(matrices, full_matrices=False)  # type: ignore[no-any-return]
    random = torch.Generator(matrices.device).manual_seed(0)
    mixed = torch.randn(columns, few, generator=random, device=matrices.device, dtype=matrices.dtype)
    with full_precision(matrices.device):
        span = torch.linalg.qr(matrices @ mixed).Q
        left, singular_values, right = torch.linalg.svd(span.mT @ matrices, full_matrices=False)
        return span @ left, singular_values, right
