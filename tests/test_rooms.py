"""The arrows between the rooms of src/lrpet go one way."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

import lrpet

SOURCE = Path(lrpet.__file__).parent

CORE = {"layers", "sharding", "planning", "projecting", "compact"}
BESIDE_CORE = {"latency", "exporting", "integrations"}

MAY_IMPORT: dict[str, set[str]] = {
    "layers": set(),
    "sharding": {"layers"},
    "models": set(),
    "planning": {"layers"},
    "projecting": {"layers", "sharding", "planning"},
    "compact": {"layers", "sharding", "planning", "projecting", "models"},
    **{room: CORE | {"lrpet"} for room in ("exporting", "integrations")},
    "latency": CORE | {"exporting", "lrpet"},
    "train": CORE | BESIDE_CORE | {"models", "lrpet"},
    "report": CORE | {"latency"},  # it reads run folders, and nothing that trains
    "cli": CORE | BESIDE_CORE | {"models", "train", "report", "lrpet"},
    "lrpet": CORE | BESIDE_CORE | {"models"},
}
"""What each room may import besides itself. The room "lrpet" is the top-level package, which stands for everything."""

FINISHING = "lrpet.compact.factorize.factorized"
TIMED = "lrpet.latency.timed.timed"
NATIVE = "lrpet.integrations.huggingface.native.attach"

When = Literal["import", "call", "typing"]


@dataclass(frozen=True)
class Import:
    """One imported name: where it stands, and whether it runs on import, in a function, or for the type checker only."""

    file: str
    line: int
    name: str
    when: When

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.name} ({self.when})"


class Reader(ast.NodeVisitor):
    """Collects the imports of one file, and its uses of `torch.distributed` without an import of it."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.when: When = "import"
        self.imports: list[Import] = []

    def visit_Import(self, node: ast.Import) -> None:
        self.found(node, *(alias.name for alias in node.names))

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        assert node.level == 0, f"{self.file}:{node.lineno}: imports are absolute here"
        self.found(node, *(f"{node.module}.{alias.name}" for alias in node.names))

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if ast.unparse(node) == "torch.distributed":
            self.found(node, "torch.distributed")
        self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        before, self.when = self.when, "call"
        self.generic_visit(node)
        self.when = before

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_If(self, node: ast.If) -> None:
        before = self.when
        if ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            self.when = "typing"
        for child in node.body:
            self.visit(child)
        self.when = before
        for child in node.orelse:
            self.visit(child)

    def found(self, node: ast.stmt | ast.expr, *names: str) -> None:
        self.imports += [Import(self.file, node.lineno, name, self.when) for name in names]


def read(source: str, file: str) -> list[Import]:
    reader = Reader(file)
    reader.visit(ast.parse(source))
    return reader.imports


def room_of(file: str) -> str:
    """The room of a file, given by its path in src/lrpet."""
    first = file.partition("/")[0].removesuffix(".py")
    return {"__init__": "lrpet", "__main__": "cli"}.get(first, first)


def target(name: str) -> str | None:
    """The room that a name is imported from, or None if it is not lrpet's."""
    package, _, rest = name.partition(".")
    first = rest.partition(".")[0]
    if package != "lrpet":
        return None
    return first if first in MAY_IMPORT and first != "lrpet" else "lrpet"


def arrow_is_wrong(found: Import) -> bool:
    here, there = room_of(found.file), target(found.name)
    if there is None or here == there:
        return False
    if there == "models" and here == "compact":
        return found.when != "call"  # loading by name, and nothing else
    if found.name == FINISHING and found.file == "projecting/projector.py":
        return found.when != "call"  # Projector.finish opens the next room of the story
    if found.name == TIMED and found.file == "planning/planner.py":
        return found.when != "call"  # a plan by what is measured here
    if found.name == NATIVE and found.file == "compact/structure.py":
        return found.when != "call"  # a model of transformers, once there is one, keeps its plan itself
    return there not in MAY_IMPORT[here]


def is_too_heavy_for_the_core(found: Import) -> bool:
    top = found.name.partition(".")[0]
    light = {"torch", "safetensors", "lrpet"} | sys.stdlib_module_names
    return room_of(found.file) in CORE and found.when == "import" and top not in light


def communicates(found: Import) -> bool:
    return f"{found.name}.".startswith("torch.distributed.") and room_of(found.file) != "sharding"


def happens_on_import_lrpet(found: Import) -> bool:
    """Whether it makes `import lrpet` load more than the standard library."""
    return (
        found.file == "__init__.py"
        and found.when == "import"
        and found.name.partition(".")[0] not in (sys.stdlib_module_names)
    )


FILES = {path.relative_to(SOURCE).as_posix(): path for path in sorted(SOURCE.rglob("*.py"))}
RULES = (arrow_is_wrong, is_too_heavy_for_the_core, communicates, happens_on_import_lrpet)
IMPORTS = [found for file, path in FILES.items() for found in read(path.read_text(encoding="utf-8"), file)]


def test_every_file_is_in_a_known_room() -> None:
    assert {room_of(file) for file in FILES} <= MAY_IMPORT.keys()
    assert {room_of(file) for file in FILES} >= CORE | {"models", "train", "report", "cli", "lrpet"}


@pytest.mark.parametrize("rule", RULES)
def test_imports_keep_the_rules(rule: Callable[[Import], bool]) -> None:
    assert [str(found) for found in IMPORTS if rule(found)] == []


@pytest.mark.parametrize(
    ("file", "source", "rule"),
    [
        ("layers/a.py", "from lrpet.planning.plan import Plan", arrow_is_wrong),
        ("layers/a.py", "from lrpet import planning", arrow_is_wrong),
        ("layers/a.py", "if TYPE_CHECKING:\n    from lrpet.planning.plan import Plan", arrow_is_wrong),
        ("planning/a.py", "def f():\n    from lrpet.latency.table import LatencyTable", arrow_is_wrong),
        ("compact/a.py", "from lrpet.models import Source", arrow_is_wrong),
        ("projecting/a.py", "def f():\n    import lrpet.models.factory", arrow_is_wrong),
        ("sharding/a.py", "import lrpet", arrow_is_wrong),
        ("models/a.py", "from lrpet import Plan", arrow_is_wrong),
        ("exporting/a.py", "from lrpet.latency.table import LatencyTable", arrow_is_wrong),
        ("train/data/a.py", "import lrpet.cli", arrow_is_wrong),
        ("train/a.py", "from lrpet.report.write import write_report", arrow_is_wrong),
        ("report/a.py", "def f():\n    from lrpet.train.run import train", arrow_is_wrong),
        ("compact/a.py", "import numpy as np", is_too_heavy_for_the_core),
        (
            "layers/a.py",
            "try:\n    from timm.layers import X\nexcept ImportError:\n    pass",
            is_too_heavy_for_the_core,
        ),
        ("projecting/a.py", "import torch.distributed as dist", communicates),
        ("train/a.py", "def f():\n    from torch import distributed", communicates),
        ("train/a.py", "def f():\n    return torch.distributed.get_rank()", communicates),
        ("train/a.py", "from torch.distributed.tensor import DTensor", communicates),
        ("__init__.py", "from lrpet.planning.plan import Plan", happens_on_import_lrpet),
        ("__init__.py", "import torch", happens_on_import_lrpet),
    ],
)
def test_breaches_are_seen(file: str, source: str, rule: Callable[[Import], bool]) -> None:
    assert [rule(found) for found in read(source, file)] == [True]


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("projecting/a.py", "import torch\nfrom safetensors import safe_open\nfrom lrpet.planning.plan import Plan"),
        ("compact/a.py", "def load():\n    from lrpet.models import Source"),
        ("layers/a.py", "def f():\n    from transformers.pytorch_utils import Conv1D"),
        ("sharding/a.py", "import torch.distributed as dist"),
        ("integrations/a.py", "import lrpet"),
        ("train/a.py", "from lrpet import models, plan\nfrom lrpet.exporting.artefact import verify"),
        ("__main__.py", "from lrpet.cli import main\nfrom lrpet.train.run import train"),
        ("__init__.py", "import importlib\nif TYPE_CHECKING:\n    from lrpet.planning.plan import Plan"),
    ],
)
def test_what_is_right_passes(file: str, source: str) -> None:
    assert [str(found) for found in read(source, file) if any(rule(found) for rule in RULES)] == []
