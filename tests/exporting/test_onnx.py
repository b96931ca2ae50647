"""ONNX files compute what the network computes, and appear only if they do."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import nn
from torch.torch_version import TorchVersion

import lrpet
from lrpet import models
from lrpet.exporting import to_onnx

exporting = pytest.mark.skipif(torch.__version__ < "2.7", reason="ONNX export needs torch 2.7")


@exporting
def test_onnx_of_a_compact_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = models.create("resnet20")
    example = torch.randn(1, 3, 32, 32)
    compact = lrpet.factorize(model, lrpet.plan(model, example, keep=0.4))
    assert to_onnx(compact, example, tmp_path / "compact.onnx") < 1e-4
    session = onnxruntime.InferenceSession(str(tmp_path / "compact.onnx"), providers=["CPUExecutionProvider"])
    images = torch.randn(5, 3, 32, 32)
    (got,) = session.run(None, {"input": images.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(got), compact.eval()(images), atol=1e-4, rtol=1e-4)
    with pytest.raises(FileExistsError, match="overwrite"):
        to_onnx(compact, example, tmp_path / "compact.onnx")


@exporting
def test_a_wrong_file_is_not_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Linear(4, 4))

    def wrong(self: object, names: object, feed: dict[str, object]) -> list[object]:
        return [torch.zeros(3, 4).numpy()]

    monkeypatch.setattr(onnxruntime.InferenceSession, "run", wrong)
    with pytest.raises(ValueError, match="differs"):
        to_onnx(model, torch.randn(1, 4), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_an_old_torch_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.6.0+cpu"))
    with pytest.raises(ImportError, match=r"needs torch 2\.7 or newer, and this is 2\.6\.0"):
        to_onnx(nn.Linear(4, 4), torch.randn(1, 4), tmp_path / "model.onnx")


@exporting
def test_modes_come_back_and_the_file_takes_any_batch(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).train()
    model[1].eval()
    for size in (1, 2, 5):
        to_onnx(model, torch.randn(size, 4), tmp_path / "model.onnx", overwrite=True)
        session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
        for batch in (1, 3):
            assert session.run(None, {"input": torch.zeros(batch, 4).numpy()})[0].shape == (batch, 2)
    assert [module.training for module in model] == [True, False, True]
