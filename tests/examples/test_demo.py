"""The demo runs to the end, its verdict follows from its numbers, and the pages show a committed run of it."""

from __future__ import annotations

import copy
import importlib
import json
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch

import lrpet
from old_torch import exporting

ROOT = Path(__file__).parents[2]


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    return importlib.import_module("demo")


@pytest.fixture
def committed() -> Any:
    return json.loads((ROOT / "benchmarks" / "results" / "demo.json").read_text(encoding="utf-8"))


@exporting
@pytest.mark.filterwarnings("ignore")
def test_the_demo_runs(demo: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = demo.Settings(steps=20, width=16, macs=0.4, seconds=0.02, timed_batch=2)
    demo.main(tmp_path / "demo", settings, picture=tmp_path / "demo.svg")
    printed = capsys.readouterr().out
    results = json.loads((tmp_path / "demo" / "demo.json").read_text(encoding="utf-8"))
    assert list(results["arms"]) == [demo.DENSE, demo.LRPET, demo.SVD, demo.SVD_BN, demo.RETRAINED]
    for name, arm in results["arms"].items():
        assert f"{name}: {arm['validation']:.1%} on validation images" in printed
        assert printed.count(name) >= 2
    costs = {row["network"]: row["cost_ratio"] for row in results["bench"]["rows"]}
    assert costs.pop(demo.DENSE) == 1
    assert all(0.35 < cost <= 0.4 for cost in costs.values())
    assert "Verdict: with 40% of the multiply-adds" in printed

    compact = lrpet.load(tmp_path / "demo" / "compact", demo.make_network(settings))
    digits = demo.Digits.load()
    assert demo.accuracy(compact, digits.test) == results["arms"][demo.LRPET]["accuracy"]
    session = onnxruntime.InferenceSession(str(tmp_path / "demo" / "compact.onnx"))
    images = digits.test[0][:7]
    (logits,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), compact(images), rtol=1e-4, atol=1e-4)
    assert "While training" in (tmp_path / "demo.svg").read_text(encoding="utf-8")


def test_the_parts_share_no_digit(demo: Any) -> None:
    digits = demo.Digits.load()
    assert [len(part[1]) for part in (digits.training, digits.validation, digits.test)] == [997, 400, 2000]
    again = demo.Digits.load()
    assert torch.equal(digits.test[0], again.test[0])
    first, second = (next(digits.batches(1, size=8, seed=seed))[0] for seed in (0, 1))
    assert not torch.equal(first, second)


def test_the_verdict_says_when_nothing_is_gained(demo: Any, committed: Any) -> None:
    slower = copy.deepcopy(committed)
    for row in slower["bench"]["rows"]:
        if row["network"] == demo.LRPET:
            row.update(milliseconds=2 * row["milliseconds"] / row["time_ratio"], time_ratio=2.0)
    assert "is NOT faster here: it takes 200% of the time" in demo.verdict(slower)
    assert "NOT" not in demo.verdict(committed)


def test_the_pages_show_the_committed_run(demo: Any, committed: Any) -> None:
    report = importlib.import_module("demo_report")
    page = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")
    assert "\n".join(report.markdown(committed)) in page
    assert "(../examples/demo.svg)" in (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
