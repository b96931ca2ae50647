"""The structure of the compact network: a copy of the full-size one with other modules in some places."""

from __future__ import annotations

import copy
from collections.abc import Mapping

from torch import nn

from lrpet.layers.factors import FactorPair
from lrpet.layers.matrix import MatrixLayer
from lrpet.layers.wrapping import is_of_transformers, leave_forwards_, unwrapped
from lrpet.planning.plan import Plan


def skeleton(model: nn.Module, plan: Plan) -> nn.Module:
    """Return a copy of `model` with the structure that `factorize` gives, its factors uninitialised.

    Raises ValueError if the plan is another network's.
    """
    model = unwrapped(model)
    return assembled(model, plan, replacements(plan, plan.bind(model)))


def replacements(plan: Plan, layers: Mapping[str, MatrixLayer]) -> dict[str, nn.Module]:
    """Return {module name: what takes its place}, the factors uninitialised; layers that share a weight share them."""
    new: dict[str, nn.Module] = {}
    owners: dict[int, nn.Module] = {}
    for layer in layers.values():
        if layer.host not in new:
            new[layer.host] = layer.replacement(plan.ranks)
        owner = owners.setdefault(id(layer.weight), new[layer.host])
        if owner is not new[layer.host]:
            assert isinstance(owner, FactorPair)
            for pair in layer.pairs(new[layer.host]):
                pair.share_(owner)
    return new


def assembled(model: nn.Module, plan: Plan, new: Mapping[str, nn.Module]) -> nn.Module:
    """Return a copy of `model` with these modules in place, which carries its plan as `lrpet_plan`.

    A model of transformers takes the plan into its config, so that its own `save_pretrained` writes what can be loaded.
    """
    compact = replaced(model, new)
    leave_forwards_(compact)
    compact.lrpet_plan = plan.settled()  # type: ignore[assignment]
    if any(map(is_of_transformers, compact.modules())):
        from lrpet.integrations.huggingface.native import attach  # not before such a model is there

        attach(compact)
    return compact


def place_(model: nn.Module, plan: Plan) -> None:
    """Give `model` itself the structure that `factorize` gives, its factors uninitialised, and its plan as `lrpet_plan`.

    Raises ValueError if the plan is another network's.
    """
    new = replacements(plan, plan.bind(model))
    taken = {id(model.get_submodule(name)): module for name, module in new.items()}
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            parent._modules[name] = taken.get(id(child), child)
    _leave_fast_paths(model)
    model.lrpet_plan = plan.settled()  # type: ignore[assignment]


def replaced(model: nn.Module, new: Mapping[str, nn.Module]) -> nn.Module:
    """Return a deep copy with the named modules replaced wherever they appear in it; the old ones are not copied."""
    memo = {id(model.get_submodule(name)): module for name, module in new.items()}
    copied = copy.deepcopy(model, memo)
    _leave_fast_paths(copied)
    return copied


def _leave_fast_paths(model: nn.Module) -> None:
    """Turn off what would read the weights of layers that have become factors."""
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor &= not any(_lost_linears(layer) for layer in module.layers)
        if isinstance(module, nn.TransformerEncoderLayer) and _lost_linears(module):
            module.activation_relu_or_gelu = 0  # an activation that the fast path does not know


def _lost_linears(module: nn.Module) -> bool:
    """Whether this is a transformer layer whose fast path in eval mode would read a factorised layer's weight."""
    return isinstance(module, nn.TransformerEncoderLayer) and not (
        isinstance(module.linear1, nn.Linear)
        and isinstance(module.linear2, nn.Linear)
        and isinstance(module.self_attn, nn.MultiheadAttention)
    )
