"""What torch 2.6, the oldest release that is supported, cannot do."""

from __future__ import annotations

from typing import Any

import pytest
import torch

_OLD = torch.__version__ < "2.7"

exporting = pytest.mark.skipif(_OLD, reason="export needs torch 2.7")
training_shards = pytest.mark.skipif(_OLD, reason="torch 2.6 cannot train on a CPU what fully_shard shards")
compiling_transformers = pytest.mark.skipif(_OLD, reason="torch 2.6 cannot trace the decorators of transformers 5")
importing_torchao = pytest.mark.skipif(_OLD, reason="torchao cannot be imported beside torch 2.6")
training_by_trl = pytest.mark.skipif(_OLD, reason="trl wants a GPU of the triton that torch 2.6 brings")


def runtimes(*names: str) -> list[Any]:
    """Return runtimes as parameters of a test, without those that need an export where torch is too old for that."""
    return [pytest.param(name, marks=() if name in ("eager", "compile") else exporting) for name in names]
