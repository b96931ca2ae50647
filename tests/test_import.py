"""`import lrpet` is light: torch, safetensors and the standard library, nothing else."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import lrpet

SOURCE = str(Path(lrpet.__file__).parents[1])


CODE = """
import json, sys
import torch, safetensors.torch
before = set(sys.modules)
import lrpet
print(json.dumps([sorted(sys.modules), sorted(sys.modules.keys() - before)]))
"""


def test_importing_lrpet_brings_only_torch_and_safetensors() -> None:
    environment = {**os.environ, "PYTHONPATH": SOURCE}
    output = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=True)
    everything, more = json.loads(output.stdout.splitlines()[-1])
    top = {name.partition(".")[0] for name in more}
    assert "lrpet" in top
    assert top - sys.stdlib_module_names <= {"lrpet", "torch", "safetensors"}
    packages = {"timm", "torchvision", "accelerate", "pydantic", "yaml", "rich", "sklearn", "onnx", "matplotlib"}
    assert not packages & {name.partition(".")[0] for name in everything}
    assert not any(name.startswith(("lrpet.train", "lrpet.export", "lrpet.cli", "lrpet.report")) for name in more)


def test_the_public_list_is_complete() -> None:
    assert all(getattr(lrpet, name) is not None for name in lrpet.__all__)
    assert lrpet.__all__ == sorted(lrpet.__all__, key=lambda name: (not name[0].isupper(), name))
    assert set(lrpet.__all__) >= {"Plan", "Projector", "factorize", "load", "plan", "save"}
    star = vars(importlib.import_module("lrpet"))
    assert all(star[name].__module__.startswith("lrpet.") for name in lrpet.__all__)
