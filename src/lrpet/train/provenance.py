"""What a result depends on besides its config: command, commit, hardware, versions."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from lrpet.latency.machine import processor, versions


def provenance() -> dict[str, Any]:
    """Return `command`, `commit` (None outside a git checkout), `hardware` and `versions`, as JSON can hold them."""
    return {"command": _command(), "commit": _commit(), "hardware": _hardware(), "versions": _versions()}


def _command() -> str:
    program = Path(sys.argv[0])
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    if spec is not None and program.suffix == ".py":
        return shlex.join(["python", "-m", spec.name.removesuffix(".__main__"), *sys.argv[1:]])
    name = program.name if program.suffix != ".py" else f"python {program.name}"
    return shlex.join([*name.split(), *sys.argv[1:]])


def _commit() -> str | None:
    here = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(here), *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        if not git("ls-files", Path(__file__).name):
            return None  # an installed copy inside somebody else's checkout
        return git("rev-parse", "HEAD") + (" and changes" if git("status", "--porcelain", "--", str(here)) else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _hardware() -> dict[str, Any]:
    return {
        "cpu": processor(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **versions("lrpet", "torch", "torchvision", "timm", "accelerate")}
