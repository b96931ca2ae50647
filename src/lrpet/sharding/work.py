"""Which process projects which layer, with what it needs of the layer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lrpet.layers.holding import holding, with_tensors
from lrpet.layers.matrix import MatrixLayer
from lrpet.sharding.exchange import agreeing, broadcast_, from_owners, is_equal, naming, summed_, to_owners
from lrpet.sharding.placement import ALONE, Placement, Sharded, is_dtensor, owners, placement_of, whole

#: Bytes of whole weights that a process gets, or gives back, in one exchange.
ROUND_BYTES = 2**28


@dataclass(frozen=True)
class Assigned:
    """A layer, where its weight is, and the process of those that projects it."""

    layer: MatrixLayer
    placement: Placement
    owner: int = 0

    @property
    def here(self) -> bool:
        """Whether this process projects the layer."""
        return self.owner == self.placement.rank

    @property
    def speaks(self) -> bool:
        """Whether this process says for all others what came of the layer."""
        return self.here and self.placement.speaks


def assigned(layers: Sequence[MatrixLayer], *, alone: bool = False) -> list[Assigned]:
    """Divide layers among the processes that hold their weights, so that all have about as much to solve.

    A pure function of the layers' shapes: every process finds one result, and nothing is sent. With `alone` this process does
    all.

    Raises ValueError if a weight is neither replicated nor sharded by rows.
    """
    groups: dict[Placement, list[MatrixLayer]] = defaultdict(list)
    for layer in layers:
        placement = ALONE if alone else placement_of(layer.name, layer.weight)
        if layer.computed and isinstance(placement, Sharded):
            raise ValueError(
                f"the weight of {layer.name!r} is standardised, and cannot be projected while it is sharded"
            )
        groups[placement].append(layer if isinstance(placement, Sharded) else _of_plain_weight(layer))
    work = {
        layer.name: Assigned(layer, placement, owner)
        for placement, some in groups.items()
        for layer, owner in zip(some, owners([_cost(layer) for layer in some], placement.size), strict=True)
    }
    return [work[layer.name] for layer in layers]


def _of_plain_weight(layer: MatrixLayer) -> MatrixLayer:
    """Return a layer with plain tensors, in place of DTensors, that hold its whole weight and batch norm in this process."""
    weight: Any = layer.weight
    if not is_dtensor(weight):
        return layer
    norm = layer.batch_norm
    return holding(layer, weight.detach().to_local(), None if norm is None else with_tensors(norm, _numbers(norm)))


def together(work: Sequence[Assigned]) -> bool:
    """Tell whether any of the layers is shared with other processes."""
    return any(each.placement.size > 1 for each in work)


def check_equal(work: Sequence[Assigned], what: str, text: str, remedy: str) -> None:
    """Raise ValueError, with the remedy, in all processes that share the layers if a text differs between them."""
    if together(work) and not is_equal(text, device_of(work)):
        raise ValueError(f"{what} differs between the {dist.get_world_size()} processes: {remedy}")


def held(work: Sequence[Assigned]) -> dict[str, MatrixLayer]:
    """Return {name: layer} of the layers that are projected here, with whole weights, and one batch norm for all processes.

    Batch norms have the statistics of process 0, which are those of the network that is saved. Else every process would
    project onto another subspace. Statistics and scales are broadcast, 8 bytes a channel in float32. Sharded weights go to
    their owners: a process sends what it holds and gets as much, in rounds of 256 MiB. Replicated weights stay where they are.
    """
    norms = _batch_norms(work)
    weights: dict[str, Tensor] = {}
    for some in _rounds(work):
        shards, lengths, owning, group = _parts(some)
        with naming("send rows to the owners", _names(some), group):
            rows = to_owners(shards, lengths, owning, group)
        for each, weight in zip(some, rows, strict=True):
            if weight is not None:
                weights[each.layer.name] = weight
    return {
        each.layer.name: holding(each.layer, weights.get(each.layer.name), norms.get(each.layer.name))
        for each in work
        if each.here
    }


def give_back(work: Sequence[Assigned], layers: Mapping[str, MatrixLayer]) -> None:
    """Send the rows of sharded weights back to the processes that hold them, as many bytes as `held` sent."""
    for some in _rounds(work):
        shards, _, owning, group = _parts(some)
        mine = [layers[each.layer.name].weight if each.here else None for each in some]
        with naming("get rows from the owners", _names(some), group):
            from_owners(mine, shards, owning, group)
        placement = some[0].placement
        assert isinstance(placement, Sharded)
        if placement.copies is not None:  # equal by construction, whatever another processor rounds
            with naming("share rows with the copies", _names(some), placement.copies):
                broadcast_(shards, 0, placement.copies)


def computed(
    layers: Mapping[str, MatrixLayer], compute: Callable[[MatrixLayer], Sequence[float]]
) -> dict[str, list[float]]:
    """Return {name: numbers} that `compute` finds for each layer, as many as its full rank, each computed by one process.

    The numbers are sent, 8 bytes each, besides what `held` sends. Raises in all processes what `compute` raises in one.
    """
    work = assigned(list(layers.values()))
    shared = together(work)
    with agreeing(device := device_of(work), together=shared):
        found = {name: list(compute(layer)) for name, layer in held(work).items()}
    if not shared:
        return found
    numbers = [found[each.layer.name] if each.speaks else [0.0] * each.layer.shape.full_rank for each in work]
    return dict(zip(layers, _summed(numbers, device), strict=True))


def averaged(numbers: Mapping[str, Sequence[float]], work: Sequence[Assigned]) -> dict[str, list[float]]:
    """Return the mean, over the processes that share the layers, of numbers that each has; 8 bytes each are sent."""
    if not together(work):
        return {name: list(each) for name, each in numbers.items()}
    size = dist.get_world_size()
    means = _summed([[x / size for x in each] for each in numbers.values()], device_of(work))
    return dict(zip(numbers, means, strict=True))


def _summed(numbers: Sequence[Sequence[float]], device: torch.device) -> list[list[float]]:
    flat = summed_(torch.tensor([x for each in numbers for x in each], dtype=torch.float64, device=device))
    return [part.tolist() for part in flat.split_with_sizes([len(each) for each in numbers])]


def device_of(work: Sequence[Assigned]) -> torch.device:
    """Return the device of the first weight, over which decisions are sent."""
    return work[0].layer.weight.device if work else torch.device("cpu")


def _cost(layer: MatrixLayer) -> float:
    """Return what solving a layer costs, to a factor: the products of its Gram matrices."""
    rows, columns = layer.shape.rows // layer.shape.groups, layer.shape.columns
    return float(layer.shape.groups * max(rows, columns) * min(rows, columns) ** 2)


def _batch_norms(work: Sequence[Assigned]) -> dict[str, nn.Module]:
    """Return {layer name: its batch norm, as process 0 has it} of layers that are shared."""
    pairs = [(each.layer.name, each.layer.batch_norm) for each in work if each.placement.size > 1]
    norms = {name: norm for name, norm in pairs if norm is not None}
    numbers = {name: _numbers(norm) for name, norm in norms.items()}
    if numbers:
        with naming("share the batch norms", list(norms), dist.group.WORLD):
            broadcast_([tensor for each in numbers.values() for tensor in each.values()], 0, dist.group.WORLD)
    return {name: with_tensors(norms[name], each) for name, each in numbers.items()}


def _numbers(norm: Any) -> dict[str, Tensor]:
    """Return copies of what a batch norm's scale is computed from."""
    tensors = {"running_var": norm.running_var, "weight": norm.weight}
    return {name: whole(tensor.detach()).clone() for name, tensor in tensors.items() if tensor is not None}


def _rounds(work: Sequence[Assigned]) -> Iterator[list[Assigned]]:
    """Yield the sharded layers, those of one placement and dtype together, as many at once as `ROUND_BYTES` allow."""
    groups: dict[Any, list[Assigned]] = defaultdict(list)
    for each in work:
        if isinstance(each.placement, Sharded):
            groups[each.placement, each.layer.weight.dtype].append(each)
    for some in groups.values():
        most = ROUND_BYTES * some[0].placement.size
        now: list[Assigned] = []
        for each in some:
            if now and sum(one.layer.weight.nbytes for one in now) + each.layer.weight.nbytes > most:
                yield now
                now = []
            now.append(each)
        yield now


def _names(some: Sequence[Assigned]) -> list[str]:
    return [each.layer.name for each in some]


def _parts(some: Sequence[Assigned]) -> tuple[list[Tensor], list[int], list[int], Any]:
    weights: list[Any] = [each.layer.weight.detach() for each in some]
    shards = [weight.to_local() for weight in weights]
    return shards, [len(weight) for weight in weights], [each.owner for each in some], some[0].placement.group
