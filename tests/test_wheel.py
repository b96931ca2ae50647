"""What is built for an index: the source distribution, and the wheel made of it, used outside the checkout."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.message import Message
from email.parser import Parser
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.version import Version

ROOT = Path(__file__).parent.parent

SCRIPT = """
import sys
import torch
import lrpet
from lrpet import models
from lrpet.train.recipes import FOLDERS, known
assert lrpet.__file__.startswith(sys.argv[1]), lrpet.__file__
assert known()["cifar10-resnet20-cpu"].parent == FOLDERS[0]
model = models.create("resnet20")
x = torch.randn(1, 3, 32, 32)
plan = lrpet.plan(model, x, macs=0.5)
lrpet.Projector(model, plan, start=0, every=1).step()
compact = lrpet.factorize(model, plan).eval()
lrpet.save(compact, sys.argv[1] + "/compact")
assert torch.equal(lrpet.load(sys.argv[1] + "/compact")(x), compact(x))
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a source distribution, and of the wheel that is made of it."""
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> zipfile.ZipFile:
    (file,) = built.glob("lrpet-*.whl")
    return zipfile.ZipFile(file)


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    return Parser().parsestr(wheel.read(name).decode("utf-8"))


@pytest.mark.skipif(Version(version("twine")) < Version("7"), reason="twine 6 cannot read metadata of version 2.5")
def test_an_index_would_take_them(built: Path) -> None:
    command = [sys.executable, "-m", "twine", "check", "--strict", *map(str, built.iterdir())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("PASSED") == 2


def test_the_wheel_has_all_that_is_read(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    source = ROOT / "src"
    files = {path.relative_to(source).as_posix() for path in (source / "lrpet").rglob("*") if path.is_file()}
    assert {name for name in files if "__pycache__" not in name} <= names
    assert "lrpet/py.typed" in names
    assert {f"lrpet/report/page/{name}" for name in ("page.html", "style.css", "page.js")} <= names
    assert {f"lrpet/recipes/{path.name}" for path in (ROOT / "recipes").glob("*.yaml")} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"lrpet"}


def test_the_source_distribution_has_what_the_tests_read(built: Path) -> None:
    (file,) = built.glob("lrpet-*.tar.gz")
    with tarfile.open(file) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for wanted in (
        "README.md",
        "RESULTS.md",
        "mkdocs.yml",
        "docs/index.md",
        "benchmarks/results/demo.json",
        "tests/pages.py",
    ):
        assert wanted in names
    assert not [name for name in names if "__pycache__" in name or name.startswith(("build/", ".venv/", "runs/"))]


def test_what_an_index_shows_has_no_dead_links(metadata: Message) -> None:
    text = metadata.get_payload()
    assert isinstance(text, str)
    assert "# lrpet" in text
    assert "those of the source distribution" in text
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert links
    assert [link for link in links if not link.startswith("https://")] == []
    paths = re.findall(r"`((?:docs|examples|benchmarks)/[^`]*|[A-Z]+\.md)`", text)
    assert len(paths) > 10
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_metadata(metadata: Message) -> None:
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_all("Project-URL") == ["Paper, https://arxiv.org/abs/2204.05566"]
    assert "Typing :: Typed" in (metadata.get_all("Classifier") or [])


def test_wheel_works_outside_the_checkout(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path / "site")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path / "site")], check=True, cwd=tmp_path, env=environment)


def test_tests_can_run_with_the_oldest_releases_that_are_allowed() -> None:
    """The pins for it are the lower bounds, so that neither is raised without the other."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = dict(each.split(">=") for each in project["dependencies"] + project["optional-dependencies"]["train"])
    pins = dict(re.findall(r"^([\w-]+)==([\d.]+)", (ROOT / ".ci" / "floor.txt").read_text("utf-8"), re.MULTILINE))
    assert pins.keys() == {*needed, "pyarrow"}  # that of an extra, whose newest release needs a newer numpy
    assert {name: f"{pins[name]}.0.0".startswith(f"{bound}.") for name, bound in needed.items()} == dict.fromkeys(
        needed, True
    )
