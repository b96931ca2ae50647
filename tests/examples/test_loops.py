"""The short examples and the notebook run to the end, and do what they say."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from lrpet.compact.files import read_manifest
from old_torch import exporting

EXAMPLES = Path(__file__).parents[2] / "examples"
LOOPS = ("plain_pytorch", "huggingface_trainer", "lightning_trainer", "timm_accelerate", "onnx_deployment")
CHANCE = 0.1


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Runs the main function of an example, in an empty folder."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.chdir(tmp_path)
    return lambda example, **options: importlib.import_module(example).main(**options)


@pytest.mark.parametrize("name", LOOPS)
def test_they_are_short(name: str) -> None:
    assert len((EXAMPLES / f"{name}.py").read_text(encoding="utf-8").splitlines()) < 60


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "folder", "epochs"),
    [
        ("plain_pytorch", "runs/plain", 3),
        ("lightning_trainer", "runs/lightning/compact", 3),
        ("timm_accelerate", "runs/timm", 4),
    ],
)
def test_loops_on_digits(run: Any, name: str, folder: str, epochs: int, capsys: pytest.CaptureFixture[str]) -> None:
    accuracy = run(name, epochs=epochs)
    assert accuracy > 3 * CHANCE
    assert f"{accuracy:.1%} of " in capsys.readouterr().out
    assert any(layer["rank"] for layer in read_manifest(Path(folder))["plan"]["layers"])


@pytest.mark.filterwarnings("ignore")
def test_the_huggingface_trainer(run: Any) -> None:
    assert run("huggingface_trainer") == [9, 10, 11, 12]


@exporting
@pytest.mark.filterwarnings("ignore")
def test_the_onnx_file(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("onnx_deployment", name="resnet8", seconds=0.02) < 1e-3
    assert "largest error" in capsys.readouterr().out


@exporting
@pytest.mark.filterwarnings("ignore")
def test_the_notebook(tmp_path: Path) -> None:
    notebook: Any = nbformat.read(EXAMPLES / "first_steps.ipynb", as_version=4)  # type: ignore[no-untyped-call]
    assert not any(cell.get("outputs") for cell in notebook.cells)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = "".join(str(cell.get("outputs")) for cell in notebook.cells)
    assert "SVD at the end" in printed
    assert "image/png" in printed
    assert (tmp_path / "runs" / "first_steps" / "compact.onnx.json").is_file()
