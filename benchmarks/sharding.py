"""What a projection costs many processes: measured on this machine, and computed from shapes for large networks.

    python -m benchmarks.sharding OUT.json [--sizes 1 2 4] [--repeats 3]

Measured: warm projections of ResNet-50's layers in processes of one thread each, which send by gloo. Weights are random;
between projections they move a little. Bytes are those of the tensors that a process hands to a collective. Computed: who
projects what, the bytes, and the memory besides the training's own, for language models of 7 and 70 billion parameters too.
"""

from __future__ import annotations

import resource
import socket
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.multiprocessing.spawn import spawn

import lrpet
from benchmarks.script import parser_of, read_json, write_json
from lrpet import models
from lrpet.sharding.placement import owners
from lrpet.train.provenance import provenance

KEEP = 0.43
FLOAT = 4
SIZES = (8, 64, 1024)


@dataclass
class Sent:
    """Bytes that this process handed to collectives."""

    bytes: int = 0


@contextmanager
def counted() -> Iterator[Sent]:
    """Count what is sent meanwhile."""
    sent, real = Sent(), {name: getattr(dist, name) for name in ("broadcast", "all_reduce", "all_to_all_single")}

    def broadcast(tensor: torch.Tensor, source: int, *args: Any, **kwargs: Any) -> Any:
        sent.bytes += tensor.nbytes if dist.get_rank() == source else 0
        return real["broadcast"](tensor, source, *args, **kwargs)

    def all_reduce(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        sent.bytes += tensor.nbytes
        return real["all_reduce"](tensor, *args, **kwargs)

    def all_to_all_single(output: torch.Tensor, given: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        sent.bytes += given.nbytes
        return real["all_to_all_single"](output, given, *args, **kwargs)

    replaced = {"broadcast": broadcast, "all_reduce": all_reduce, "all_to_all_single": all_to_all_single}
    for name, function in replaced.items():
        setattr(dist, name, function)
    try:
        yield sent
    finally:
        for name, function in real.items():
            setattr(dist, name, function)


@contextmanager
def timed(projector: lrpet.Projector) -> Iterator[list[float]]:
    """Collect the seconds of finding subspaces and what becomes of the weights, without what is sent."""
    seconds: list[float] = []

    def clocked(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            begin = time.perf_counter()
            result = function(*args)
            seconds.append(time.perf_counter() - begin)
            return result

        return call

    solve, transfer = projector._warm.solve, projector._transfer
    projector._warm.solve, projector._transfer = clocked(solve), clocked(transfer)  # type: ignore[method-assign]
    try:
        yield seconds
    finally:
        projector._warm.solve, projector._transfer = solve, transfer  # type: ignore[method-assign]


def process(rank: int, size: int, port: int, sharded: bool, repeats: int, out: Path) -> None:
    """Project again and again, and write down what that took."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    store = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size)
    torch.manual_seed(0)
    model = models.create("torchvision:resnet50")
    plan = lrpet.plan(model, torch.randn(1, 3, 64, 64), keep=KEEP)
    projector = lrpet.Projector(model, plan, total_steps=1, start=0, every=1)
    if sharded:
        fully_shard(model, mesh=init_device_mesh("cpu", (size,)))
    projector.project()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds, solving, sent = [], [], 0
    for _ in range(repeats):
        with torch.no_grad():
            for parameter in model.parameters():
                here = parameter.to_local() if isinstance(parameter, DTensor) else parameter
                here.add_(torch.randn_like(here), alpha=1e-5)
        dist.barrier()
        begin = time.perf_counter()
        with counted() as bytes_sent, timed(projector) as own:
            projector.project()
        dist.barrier()
        seconds.append(time.perf_counter() - begin)
        solving.append(sum(own))
        sent = bytes_sent.bytes
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    write_json(
        out / f"{rank}.json",
        {
            "seconds": statistics.median(seconds),
            "solving": statistics.median(solving),
            "sent": sent,
            "peak_growth": 1024 * (peak - before),
        },
    )
    dist.destroy_process_group()


def measured(size: int, *, sharded: bool, repeats: int, folder: Path) -> dict[str, Any]:
    """Return what a warm projection takes this many processes, the slowest and the largest of them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    spawn(process, (size, port, sharded, repeats, folder), nprocs=size)  # type: ignore[no-untyped-call]
    each = [read_json(folder / f"{rank}.json") for rank in range(size)]
    worst = {name: max(one[name] for one in each) for name in ("seconds", "solving", "sent", "peak_growth")}
    return {"processes": size, "weights": "sharded" if sharded else "replicated", **worst}


def resnet50() -> list[tuple[int, int]]:
    """Return rows and columns of the weights that are projected."""
    with torch.device("meta"):
        model = models.create("torchvision:resnet50")
    convolutions = [module.weight for module in model.modules() if isinstance(module, nn.Conv2d)]
    return [(len(weight), weight[0].numel()) for weight in convolutions[1:]]


def transformer(
    width: int, inner: int, depth: int, narrow: int | None = None, *, gated: bool = True
) -> list[tuple[int, int]]:
    """Return rows and columns: query, key, value and output of attentions, and the linears between."""
    narrow = narrow or width
    attention = [(width, width), (narrow, width), (narrow, width), (width, width)]
    return (attention + [(inner, width)] * (1 + gated) + [(width, inner)]) * depth


NETWORKS = {
    "ResNet-50": resnet50(),
    "ViT-L/16": transformer(1024, 4096, 24, gated=False),
    "7B language model": transformer(4096, 11008, 32),
    "70B language model": transformer(8192, 28672, 80, narrow=1024),
}


def computed(name: str, size: int) -> dict[str, Any]:
    """Return how even the work is, and what is sent and held, from shapes alone."""
    shapes = NETWORKS[name]
    sides = [(min(shape), max(shape)) for shape in shapes]
    ranks = [max(1, round(KEEP * small)) for small, _ in sides]
    owning = owners([large * small**2 for small, large in sides], size)
    # On a GPU: a Gram matrix, five steps of power iteration, coordinates, and the new weight.
    work = [
        2 * large * small**2 + 10 * small**2 * rank + 4 * large * small * rank
        for (small, large), rank in zip(sides, ranks, strict=True)
    ]
    loads, factors, whole, bases = ([0] * size for _ in range(4))
    for owner, flops, (small, large), rank in zip(owning, work, sides, ranks, strict=True):
        loads[owner] += flops
        factors[owner] += FLOAT * rank * (small + large)
        whole[owner] += FLOAT * small * large
        bases[owner] += FLOAT * small * rank
    return {
        "network": name,
        "processes": size,
        "matrices": len(shapes),
        "weights": sum(m * n for m, n in shapes),
        "flops": sum(work),
        "most_flops": max(loads),
        "share": max(loads) / sum(work),
        "replicated_broadcast": sum(factors),
        "sharded_sent_by_each": -(-sum(whole) // size),
        "sharded_received_at_most": max(whole),
        "sharded_held_at_most": max(2 * w + f + b for w, f, b in zip(whole, factors, bases, strict=True)),
    }


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("out", type=Path, help="file that the results are written to")
    parser.add_argument("--sizes", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    rows = []
    for size in options.sizes:
        for sharded in [False, True] if size > 1 else [False]:
            folder = options.out.parent / f".sharding-{size}-{sharded}"
            folder.mkdir(parents=True, exist_ok=True)
            rows.append(measured(size, sharded=sharded, repeats=options.repeats, folder=folder))
            for file in folder.iterdir():
                file.unlink()
            folder.rmdir()
            print(rows[-1], flush=True)
    shapes = [computed(name, size) for name in NETWORKS for size in SIZES]
    write_json(options.out, {**provenance(), "seed": 0, "keep": KEEP, "measured": rows, "computed": shapes})
    for each in shapes:
        print(each)


if __name__ == "__main__":
    main()
