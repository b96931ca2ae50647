"""Full-size model → compact model, of plain PyTorch layers."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lrpet.compact.structure import assembled, replacements
from lrpet.layers.matrix import MatrixLayer
from lrpet.layers.sound import check_layer, check_network, magnitude
from lrpet.layers.wrapping import unwrapped
from lrpet.planning.plan import Plan
from lrpet.projecting.matrices import energies, full_precision
from lrpet.projecting.projection import DEAD_BELOW
from lrpet.projecting.solvers import leading
from lrpet.sharding.exchange import agreeing, broadcast_
from lrpet.sharding.placement import Placement, Sharded, reshard
from lrpet.sharding.plain import gathered, is_sharded
from lrpet.sharding.work import Assigned, assigned, device_of, held

#: The fraction of a layer's energy from which `factorize` warns that it cuts some off.
CUT = 0.01
#: Numbers this far from 1 are computed with in float64.
FAR = 2.0**60


def factorize(model: nn.Module, plan: Plan) -> nn.Module:
    """Return a copy of `model` in which every planned layer is two thin ones; `model` itself is untouched.

    W ≈ U·Σ·Vᵀ becomes √Σ·Vᵀ, then U·√Σ. A convolution becomes one with its kernel, c→r (stride, padding and dilation of
    the original, no bias), then a 1×1 convolution r→n (with the original bias). `lrpet.layers.matrix` has the table of all
    layers. An `nn.MultiheadAttention` becomes a `lrpet.layers.factorized_attention.FactorizedAttention`. Layers that share
    a weight share its factors. Dtype, device, training mode and `requires_grad` are kept. Wrappers of torch.compile and data
    parallelism, and forwards that trainers put on a model, are left behind.

    A network sharded by `fully_shard` is put together layer by layer: the compact network comes on the CPU of process 0, and
    on the meta device in the others. All processes must call. Each process factorises its share of the layers, for which it
    holds whole weights, and broadcasts the factors, r·(m + n) numbers for a weight of m × n.

    What a weight still has beyond rank r is cut off, so project first: a warning says what is cut, from 1 % of a layer's
    energy on. A dead layer (largest singular value below 1e-4) is factorised like any other, and named by a warning.

    Raises ValueError if the plan is another network's, a weight or a batch norm holds NaN or Inf or a negative variance, or
    a sharded weight is split otherwise than by rows.
    """
    return factorized(model, plan)


def factorized(model: nn.Module, plan: Plan, *, together: bool = False) -> nn.Module:
    """Return what `factorize` does. With `together`, processes that hold replicas divide the work, too, and all must call."""
    if not isinstance(plan, Plan):
        raise ValueError(f"plan must be what lrpet.plan returned; got {type(plan).__name__}")
    model = unwrapped(model)
    reshard(model)
    if not together and not is_sharded(model):
        check_network(model, "it cannot be factorised")
    splits = _splits(plan.bind(model), plan.ranks, Placement if together else Sharded)
    if is_sharded(model):
        model = gathered(model, without=[layer.weight for layer in plan.bind(model).values()])
    layers = plan.bind(model)
    new = replacements(plan, layers)
    dead, cut = [], {}
    for name, split in splits:
        layers[name].fill_(new[layers[name].host], split.left, split.right)
        if split.dead:
            dead.append(name)
        elif split.cut >= CUT:
            cut[name] = split.cut
    if dead:
        warnings.warn(f"dead layers (largest singular value below 1e-4), kept: {', '.join(dead)}", stacklevel=3)
    if cut:
        worst = max(cut, key=cut.__getitem__)
        warnings.warn(
            f"factorize cuts energy off the weights of {len(cut)} layer{'s' * (len(cut) > 1)}, most off {worst or '(root)'} "
            f"({cut[worst]:.1%}): they are not of the planned rank. Project first "
            "(projector.finish() does both), or call lrpet.compress",
            stacklevel=3,
        )
    compact = assembled(model, plan, new)
    compact.lrpet_source = _source(model)  # type: ignore[assignment]
    return compact


def _source(model: nn.Module) -> object:
    """Return how the full-size network is made by name, which its compact form no longer shows; None if it has no name."""
    if not hasattr(model, "lrpet_source") and type(model).__module__.partition(".")[0] not in ("timm", "torchvision"):
        return None
    from lrpet.models import source_of  # not before it is needed: the networks by name are no part of the core

    return source_of(model)


class _Split(NamedTuple):
    """A weight as two factors."""

    left: Tensor
    """U·√Σ, shape (groups, rows/groups, rank)."""
    right: Tensor
    """√Σ·Vᵀ, shape (groups, rank, columns)."""
    cut: float
    """The fraction of the weight's energy beyond this rank."""
    dead: bool


def _splits(
    layers: Mapping[str, MatrixLayer], ranks: Mapping[str, int], kind: type[Placement]
) -> Iterator[tuple[str, _Split]]:
    """Yield the factors of each layer, one after the other; layers of this placement are divided among the processes."""
    every = assigned(list(layers.values()))
    work = [each for each in every if each.placement.size > 1 and isinstance(each.placement, kind)]
    shared = {each.layer.name: each for each in work}
    with agreeing(device_of(work), together=bool(work)):
        mine = {name: _split(layer, ranks[name]) for name, layer in held(work).items()}
    for name, each in zip(layers, every, strict=True):
        if name not in shared:
            yield name, _split(each.layer, ranks[name])
        else:
            yield name, _sent(mine.pop(name, None), shared[name], ranks[name])


def _sent(split: _Split | None, work: Assigned, rank: int) -> _Split:
    """Return what the owner of a layer split its weight into, to every process."""
    like, shape = work.layer.weight, work.layer.shape
    options: dict[str, Any] = {"device": like.device, "dtype": torch.promote_types(like.dtype, torch.float32)}
    numbers = torch.zeros(2, **options)
    if split is None:
        left = torch.empty(shape.groups, shape.rows // shape.groups, rank, **options)
        right = torch.empty(shape.groups, rank, shape.columns, **options)
    else:
        left, right = split.left.contiguous(), split.right.contiguous()
        numbers.copy_(torch.tensor([split.cut, float(split.dead)]))
    broadcast_([left, right, numbers], work.owner, work.placement.group)
    cut, dead = numbers.tolist()
    return _Split(left, right, cut, bool(dead))


@torch.no_grad()
def _split(layer: MatrixLayer, rank: int) -> _Split:
    check_layer(layer)
    matrices, scale, unit, folded_unit = _near_one(layer)
    with full_precision(matrices.device):
        energies_before = energies(matrices, scale)  # E of (E1), (E5)
        subspace = leading(matrices, rank, row_scale=scale, energy=energies_before)
        kept = subspace.kept_energy(subspace.coordinates(matrices), energies_before, scale)
        dead = subspace.largest.double() * folded_unit < DEAD_BELOW
        truncated = torch.where(dead[:, None, None], matrices, subspace.project(matrices))  # (E2)
    energy = float(energies_before.sum())
    cut = max(0.0, 1 - float(kept.sum()) / energy) if energy > 0 else 0.0
    # Both factors take √Σ, so that neither is much larger than the other.
    left, singular_values, right = _svd(truncated, rank)
    root = singular_values[:, :rank].sqrt() * unit**0.5
    single = torch.promote_types(layer.weight.dtype, torch.float32)
    factors = (left[..., :rank] * root[:, None]).to(single), (root[..., None] * right[:, :rank]).to(single)
    return _Split(*factors, cut, bool(dead.all()))


def _near_one(layer: MatrixLayer) -> tuple[Tensor, Tensor | None, float, float]:
    """Return W and α with the largest entries near 1, so that no square is too large or too small.

    Two numbers follow: what W is to be multiplied by, and what diag(α)·W is. The division by a power of four is exact.
    """
    scale, matrices = layer.row_scale(), layer.matrices()
    matrices = matrices.to(torch.promote_types(matrices.dtype, torch.float32))
    unit = magnitude(matrices)
    if not FAR**-1 < unit < FAR:
        matrices = matrices.double()
    matrices = matrices / unit
    if scale is None:
        return matrices, None, unit, unit
    scale = scale.to(matrices.dtype)
    folded = magnitude(torch.linalg.vector_norm(matrices, dim=-1) * scale)
    if not FAR**-1 < folded < FAR:
        matrices, scale = matrices.double(), scale.double()
    return matrices, scale / folded, unit, unit * folded


def _svd(matrices: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return U, σ, Vᵀ of matrices that have this rank at most, the leading ones at least.

    A few random combinations of the columns span all of them (Halko, Martinsson, Tropp 2011), so that the decomposition is
    that of a (rank + 16) × columns matrix.
    """
    rows, columns = matrices.shape[1:]
    few = rank + 16
    if 2 * few >= min(rows, columns):
        return _decomposed(matrices)
    random = torch.Generator(matrices.device).manual_seed(0)
    mixed = torch.randn(columns, few, generator=random, device=matrices.device, dtype=matrices.dtype)
    with full_precision(matrices.device):
        span = torch.linalg.qr(matrices @ mixed).Q
        left, singular_values, right = _decomposed(span.mT @ matrices)
        return span @ left, singular_values, right


def _decomposed(matrices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the thin SVD; in float64 where that of matrices with singular values near zero does not converge in float32."""
    try:
        return torch.linalg.svd(matrices, full_matrices=False)  # type: ignore[no-any-return]
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        left, singular_values, right = torch.linalg.svd(matrices.double(), full_matrices=False)
        return left.to(matrices.dtype), singular_values.to(matrices.dtype), right.to(matrices.dtype)
