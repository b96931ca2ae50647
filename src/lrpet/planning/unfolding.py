"""How the kernels of convolutions are divided between their factors, and the energy that is kept in each way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast, get_args

import torch
from torch import Tensor, nn

from lrpet.layers.matrix import Unfolding, row_scale, scale_of_rows, unfold, unsupported
from lrpet.layers.observe import Layer
from lrpet.planning.candidates import Candidate, cost_of
from lrpet.planning.costs import uniform_rank


def unfoldings_of(
    layers: list[Layer],
    wanted: str | Mapping[str, Unfolding],
    model: nn.Module,
    *,
    kept: float | None,
    of_rank: bool,
) -> dict[str, Unfolding]:
    """The unfolding of every layer that has a choice: a two-dimensional convolution with more than one row and column.

    `wanted` is one for all, or {layer name: unfolding}, or "best": the one that keeps more energy at the multiply-adds that
    the fraction `kept` of them allows; with `of_rank`, at those of the channel unfolding with this fraction of its rank.

    Raises ValueError for an unknown unfolding or layer, and for "best" without a fraction.
    """
    free = {
        layer.name: layer
        for layer in layers
        if isinstance(layer.module, nn.Conv2d)
        and min(layer.module.kernel_size) > 1
        and unsupported(layer.module) is None
    }
    if isinstance(wanted, Mapping):
        for name, unfolding in wanted.items():
            if unfolding not in get_args(Unfolding):
                raise ValueError(f"unfolding gives {name!r} {unfolding!r}; it must be channel or spatial")
            if name not in free:
                raise ValueError(
                    f"unfolding names {name!r}, which is no two-dimensional convolution with a kernel above 1×1 in this "
                    f"network; those are: {', '.join(free) or 'none'}"
                )
        return dict(wanted)
    if wanted == "best":
        if kept is None:
            raise ValueError(
                "unfolding='best' compares at a fraction of the cost; with ranks, or numbers as budgets, give "
                "{layer name: unfolding}"
            )
        return {name: _best(layer, model, kept, of_rank=of_rank) for name, layer in free.items()}
    if wanted not in get_args(Unfolding):
        raise ValueError(f"unfolding={wanted!r} must be channel, spatial, best or {{layer name: unfolding}}")
    return dict.fromkeys(free, cast(Unfolding, wanted))


def _best(layer: Layer, model: nn.Module, fraction: float, *, of_rank: bool) -> Unfolding:
    channel = cost_of([layer], "channel")
    allowed = channel.macs(uniform_rank(channel.full_rank, fraction)) if of_rank else fraction * channel.macs()
    kept: dict[Unfolding, float] = {}
    for unfolding in get_args(Unfolding):
        cost = cost_of([layer], unfolding)
        rank = min(cost.full_rank, int(allowed // cost.macs(1))) if cost.macs(1) else 0
        kept[unfolding] = float(folded_energies(layer, unfolding, model)[:, :rank].sum())
    return max(kept, key=kept.__getitem__)


def kept_energy(candidate: Candidate, model: nn.Module) -> list[float]:
    """Fraction of the energy of the folded weight, over all groups, that is kept at rank 1, 2, …"""
    energies = folded_energies(candidate.layers[0], candidate.unfolding, model).sum(0)
    total = energies.sum()
    return (energies.cumsum(0) / total.clamp_min(torch.finfo(total.dtype).tiny)).tolist()


def folded_energies(layer: Layer, unfolding: Unfolding, model: nn.Module) -> Tensor:
    """Squared singular values of the weight with its batch norm folded in, descending, shape (groups, full rank).

    Raises ValueError if the weight or the batch norm holds NaN or Inf.
    """
    matrices = unfold(layer.module, unfolding).detach().double()
    if layer.batch_norm is not None:
        alpha = row_scale(model.get_submodule(layer.batch_norm)).double()
        matrices = scale_of_rows(alpha, layer.module, unfolding)[..., None] * matrices
    gram = matrices @ matrices.mT if matrices.shape[1] <= matrices.shape[2] else matrices.mT @ matrices
    if not bool(gram.isfinite().all()):
        raise ValueError(
            f"NaN or Inf in the weight or batch norm of {layer.name!r}, or in their squares, so that it has no energy: "
            "if it was being trained, training has diverged"
        )
    energies: Tensor = torch.linalg.eigvalsh(gram).flip(-1).clamp_min(0)
    return energies
