"""What the benchmarks' scripts have in common: options, the clock, files of results, and means in words."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from lrpet.compact.write import written


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """Make a parser of options whose help begins with a module's docstring as it is."""
    return argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def clock(device: torch.device) -> float:
    """Wait for what `device` has to do, and return the time in seconds."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def read_json(path: Path) -> Any:
    """Return the content of a file of results."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, results: Mapping[str, Any], *, indent: int | None = 1) -> None:
    """Write a file of results, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with written(path) as temporary:
        temporary.write_text(json.dumps(results, indent=indent) + "\n", encoding="utf-8")


def spread(values: Sequence[float]) -> str:
    """Write mean ± standard deviation in percent, or a single value alone."""
    mean = f"{100 * statistics.mean(values):.2f}"
    return mean if len(values) == 1 else f"{mean} ± {100 * statistics.stdev(values):.2f}"
