from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import nn

import lrpet
from lrpet import models
from lrpet.export import to_onnx


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


def test_a_wrong_file_is_not_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Linear(4, 4))

    def wrong(self: object, names: object, feed: dict[str, object]) -> list[object]:
        return [torch.zeros(3, 4).numpy()]

    monkeypatch.setattr(onnxruntime.InferenceSession, "run", wrong)
    with pytest.raises(ValueError, match="differs"):
        to_onnx(model, torch.randn(1, 4), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []
