"""Several processes that train one network, on the CPU with gloo."""

from __future__ import annotations

import datetime
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn


def results(size: int, work: Callable[..., Any], folder: Path, *args: Any, joined: bool = True) -> list[Any]:
    """Run `work(*args)`, a function of a module, in this many processes at once, and return what each returned.

    Without `joined` they have what torchrun would tell them, and join by what they run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    spawn(_process, (size, port, joined, work, folder, args), nprocs=size)  # type: ignore[no-untyped-call]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(size)]


def _process(rank: int, size: int, port: int, joined: bool, work: Callable[..., Any], folder: Path, args: Any) -> None:
    torch.set_num_threads(1)
    os.environ.update(
        {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)},
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        TORCHELASTIC_RUN_ID="tests",
    )
    if joined:
        dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=60))
    try:
        torch.save(work(*args), folder / f"{rank}.pt")
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
