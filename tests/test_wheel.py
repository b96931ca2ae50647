"""The built wheel, used outside the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent

SCRIPT = """
import sys
import torch
import lrpet
from lrpet import models
assert lrpet.__file__.startswith(sys.argv[1]), lrpet.__file__
model = models.create("resnet20")
x = torch.randn(1, 3, 32, 32)
plan = lrpet.plan(model, x, macs=0.5)
lrpet.Projector(model, plan, start=0, every=1).step()
compact = lrpet.factorize(model, plan).eval()
lrpet.save(compact, sys.argv[1] + "/compact")
assert torch.equal(lrpet.load(sys.argv[1] + "/compact")(x), compact(x))
"""


def test_wheel_works_outside_the_checkout(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "dist"), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("lrpet-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert "lrpet/py.typed" in names
        assert {f"lrpet/report/page/{name}" for name in ("page.html", "style.css", "page.js")} <= set(names)
        assert any(name.endswith("licenses/LICENSE") for name in names)
        assert not any(name.startswith("tests") for name in names)
        archive.extractall(tmp_path / "site")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path / "site")], check=True, cwd=tmp_path, env=environment)
