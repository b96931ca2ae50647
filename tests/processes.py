"""Several processes that train one network, on the CPU with gloo."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn


def results(size: int, work: Callable[..., Any], folder: Path, *args: Any) -> list[Any]:
    """Run `work(*args)`, a function of a module, in this many processes at once, and return what each returned."""
    folder.mkdir(parents=True, exist_ok=True)
    spawn(_process, (size, work, folder, args), nprocs=size)  # type: ignore[no-untyped-call]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(size)]


def _process(rank: int, size: int, work: Callable[..., Any], folder: Path, args: Any) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size))
    store = f"file://{folder / 'store'}"
    dist.init_process_group(
        "gloo", init_method=store, rank=rank, world_size=size, timeout=datetime.timedelta(seconds=60)
    )
    try:
        torch.save(work(*args), folder / f"{rank}.pt")
    finally:
        dist.destroy_process_group()
