"""What processes send each other: flat tensors, and whether all of them got through."""

from __future__ import annotations

import math
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@contextmanager
def naming(what: str, layers: Sequence[str], group: Any) -> Iterator[None]:
    """Let what fails in the block, such as by a process that ended or by time that is up, name layers and processes."""
    try:
        yield
    except RuntimeError as error:
        here = dist.get_rank()
        others = ", ".join(str(rank) for rank in dist.get_process_group_ranks(group) if rank != here)
        raise RuntimeError(
            f"process {here} could not {what} of {', '.join(layers)}, for which it waited for process {others}: {error}"
        ) from error


def broadcast_(tensors: Sequence[Tensor], owner: int, group: Any) -> None:
    """Overwrite tensors with those of one process of the group. All their bytes are sent, once for each dtype."""
    alike: dict[Any, list[Tensor]] = defaultdict(list)
    for tensor in tensors:
        alike[tensor.dtype, tensor.device].append(tensor)
    for some in alike.values():
        flat = torch.cat([tensor.reshape(-1) for tensor in some])
        dist.broadcast(flat, dist.get_global_rank(group, owner), group=group)
        for tensor, part in zip(some, flat.split_with_sizes([tensor.numel() for tensor in some]), strict=True):
            tensor.copy_(part.view(tensor.shape))


def summed_(tensor: Tensor) -> Tensor:
    """Sum a tensor over all processes, and return it. All its bytes are sent."""
    dist.all_reduce(tensor)
    return tensor


def averaged_(tensor: Tensor) -> Tensor:
    """Overwrite a tensor with its mean over all processes, and return it. All its bytes are sent."""
    return summed_(tensor.div_(dist.get_world_size()))


@contextmanager
def agreeing(device: torch.device, *, together: bool) -> Iterator[None]:
    """Raise in every process what any of them raises in the block. 8 bytes are sent if none does.

    The process that failed raises its own error. The others raise a ValueError or RuntimeError that holds its text. Without
    `together` this does nothing.
    """
    error: Exception | None = None
    try:
        yield
    except Exception as raised:
        if not together:
            raise
        error = raised
    if not together:
        return
    size, rank = dist.get_world_size(), dist.get_rank()
    first = torch.tensor(size if error is None else rank, device=device)
    dist.all_reduce(first, dist.ReduceOp.MIN)
    if (failed := int(first)) == size:
        return
    text = _text_of(failed, "" if error is None else f"{int(isinstance(error, ValueError))}{error}", device)
    if error is not None:
        raise error
    kind = ValueError if text[0] == "1" else RuntimeError
    raise kind(f"process {failed} failed: {text[1:]}")


def is_equal(text: str, device: torch.device) -> bool:
    """Tell whether all processes have one text. 16 bytes are sent."""
    number = zlib.crc32(text.encode())
    extremes = torch.tensor([number, -number], device=device)
    dist.all_reduce(extremes, dist.ReduceOp.MAX)
    return int(extremes[0]) == -int(extremes[1])


def rows_of(length: int, size: int) -> list[int]:
    """Return how many of `length` rows each of `size` processes holds, as `torch.chunk` divides them; some perhaps none."""
    step = -(-length // size)
    return [max(0, min(length, (i + 1) * step) - i * step) for i in range(size)]


def to_owners(
    shards: Sequence[Tensor], lengths: Sequence[int], owners: Sequence[int], group: Any
) -> list[Tensor | None]:
    """Return the whole tensors that belong to this process, from the rows that all processes hold; None for others.

    One exchange: every process sends its rows of a tensor to the tensor's owner.

    Args:
        shards: The rows that are here, of one dtype.
        lengths: The rows that each tensor has as a whole.
        owners: The process of the group that gets each tensor.
        group: The processes, which hold the rows in the order of their ranks.
    """
    size, rank = dist.get_world_size(group), dist.get_rank(group)
    sent = [[shard for shard, owner in zip(shards, owners, strict=True) if owner == to] for to in range(size)]
    mine = [i for i, owner in enumerate(owners) if owner == rank]
    coming = [[rows_of(lengths[i], size)[source] * _width(shards[i]) for i in mine] for source in range(size)]
    parts = _exchanged(sent, coming, shards[0], group)
    whole: list[Tensor | None] = [None] * len(shards)
    for i, pieces in zip(mine, zip(*parts, strict=True), strict=True):
        whole[i] = torch.cat(pieces).view(lengths[i], *shards[i].shape[1:])
    return whole


def from_owners(whole: Sequence[Tensor | None], shards: Sequence[Tensor], owners: Sequence[int], group: Any) -> None:
    """Overwrite the rows that are here with those that the tensors' owners hold: `to_owners` in reverse."""
    size = dist.get_world_size(group)
    mine = [tensor for tensor in whole if tensor is not None]
    sent = [[tensor.split_with_sizes(rows_of(len(tensor), size))[to] for tensor in mine] for to in range(size)]
    coming = [
        [shard.numel() for shard, owner in zip(shards, owners, strict=True) if owner == source]
        for source in range(size)
    ]
    parts = _exchanged(sent, coming, shards[0], group)
    taken = [iter(pieces) for pieces in parts]
    for shard, owner in zip(shards, owners, strict=True):
        shard.copy_(next(taken[owner]).view(shard.shape))


def _exchanged(
    sent: Sequence[Sequence[Tensor]], coming: Sequence[Sequence[int]], like: Tensor, group: Any
) -> list[Sequence[Tensor]]:
    """Send some tensors to each process, and return what came from each: flat tensors of these sizes."""
    gone = torch.cat([tensor.reshape(-1) for tensors in sent for tensor in tensors] or [like.new_empty(0)])
    came = like.new_empty(sum(map(sum, coming)))
    sizes = [sum(tensor.numel() for tensor in tensors) for tensors in sent]
    dist.all_to_all_single(came, gone, [sum(each) for each in coming], sizes, group=group)
    by_source = came.split_with_sizes([sum(each) for each in coming])
    return [part.split_with_sizes(list(each)) for part, each in zip(by_source, coming, strict=True)]


def _width(shard: Tensor) -> int:
    return math.prod(shard.shape[1:])


def _text_of(owner: int, text: str, device: torch.device) -> str:
    """Return the text that one of all processes has."""
    encoded = text.encode()
    length = torch.tensor(len(encoded), device=device)
    dist.broadcast(length, owner)
    letters = torch.zeros(int(length), dtype=torch.uint8, device=device)
    if dist.get_rank() == owner:
        letters.copy_(torch.tensor(list(encoded), dtype=torch.uint8))
    dist.broadcast(letters, owner)
    return bytes(letters.tolist()).decode()
