"""`import lrpet` is light, its public names arrive when they are used, and nothing is asked of the network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import lrpet

SOURCE = str(Path(lrpet.__file__).parents[1])
ROOMS_ON_REQUEST = {"models", "train", "exporting", "cli", "report", "integrations"}
#: Public names that open rooms on request.
OPENING_THEM = {"export", "bench"}

BARE = """
import json, sys
before = set(sys.modules)
import lrpet
print(json.dumps(sorted(sys.modules.keys() - before)))
"""

USED = """
import json, sys
import torch, safetensors.torch, torch.utils.flop_counter
before = set(sys.modules)
import lrpet
for name in set(lrpet.__all__) - set(sys.argv[1:]):
    getattr(lrpet, name)
print(json.dumps(sorted(sys.modules.keys() - before)))
"""

README = """
import lrpet
assert callable(lrpet.integrations.optimizer.attach)
assert callable(lrpet.exporting.verify)
assert callable(lrpet.export)
assert callable(lrpet.models.create)
"""

#: Notes every address that Python code is about to ask for, those of Unix sockets left out. The last of them is to be noted.
OFFLINE = """
import json, sys
asked = []

def noted(event, arguments):
    if event == "socket.getaddrinfo" or event in ("socket.connect", "socket.sendto") and isinstance(arguments[1], tuple):
        asked.append(repr(arguments[-1]))

sys.addaudithook(noted)
import socket, torch, lrpet
from lrpet import models
from lrpet.cli import main

network = models.create("resnet8", in_channels=1)
projector = lrpet.Projector(network, lrpet.plan(network, torch.zeros(1, 1, 8, 8), keep=0.5), start=0, every=1)
projector.step()
lrpet.load(lrpet.save(projector.finish(), sys.argv[1] + "/compact"))
options = "--model resnet8 --data digits --keep 0.5 --epochs 1 --quiet --output".split()
assert main(["train", *options, sys.argv[1] + "/run"]) == 0
before = list(asked)
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(("127.0.0.1", 9))
print(json.dumps([before, len(asked)]))
"""


def run(code: str, *arguments: str) -> str:
    """Return what `code` prints in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": SOURCE}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def top(names: list[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def rooms(names: list[str]) -> set[str]:
    return {name.split(".")[1] for name in names if name.startswith("lrpet.")}


def test_import_alone_loads_the_standard_library_only() -> None:
    loaded = json.loads(run(BARE))
    assert "lrpet" in loaded
    assert top(loaded) - sys.stdlib_module_names == {"lrpet"}
    assert not rooms(loaded) & ROOMS_ON_REQUEST


def test_public_names_load_the_core_only() -> None:
    """Rooms in the public list are left out, and what torch itself brings along is not counted."""
    loaded = json.loads(run(USED, *ROOMS_ON_REQUEST, *OPENING_THEM))
    assert rooms(loaded) >= {"layers", "planning", "projecting", "compact"}
    assert top(loaded) - sys.stdlib_module_names <= {"lrpet", "torch", "safetensors"}
    assert not rooms(loaded) & ROOMS_ON_REQUEST


def test_rooms_are_reached_by_their_names_after_import_lrpet() -> None:
    run(README)


def test_nothing_is_asked_of_the_network(tmp_path: Path) -> None:
    """Neither by an import, a plan, a projection, saving and loading, nor by a training on data that is here."""
    assert json.loads(run(OFFLINE, str(tmp_path))) == [[], 1]


def test_the_public_list_is_complete() -> None:
    assert lrpet.__all__ == sorted(lrpet.__all__, key=lambda name: (not name[0].isupper(), name))
    assert set(lrpet.__all__) >= {"Descent", "Plan", "Projector", "compress", "factorize", "load", "plan", "save"}
    own = [getattr(lrpet, name) for name in set(lrpet.__all__) - ROOMS_ON_REQUEST]
    assert all(value.__module__.startswith("lrpet.") for value in own)
    assert set(lrpet.__all__) <= set(dir(lrpet))


@pytest.mark.parametrize("first", ["lrpet.latency.bench", "lrpet.exporting.export", "lrpet"])
def test_functions_and_their_modules_do_not_hide_each_other(first: str) -> None:
    """The module lrpet.latency.bench is no attribute of lrpet, so that lrpet.bench is the function whatever came before."""
    code = f"import {first}, lrpet\nprint(callable(lrpet.bench), callable(lrpet.export), callable(lrpet.plan), lrpet.Bench)"
    assert run(code).split()[:3] == ["True"] * 3


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nosuch"):
        getattr(lrpet, "nosuch")  # noqa: B009
