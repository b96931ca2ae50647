"""Every runtime computes what the network computes, whatever its inputs are."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import nn

import lrpet
from helpers import images, small_network
from lrpet.latency.measure import latency
from lrpet.latency.runtimes import Runtime, check_runtime, ready, tensors
from lrpet.layers.inputs import Inputs
from networks import TokenModel, token_inputs
from old_torch import exporting, runtimes

CPU = torch.device("cpu")
CASES: dict[str, tuple[Any, Any]] = {
    "an image": (small_network, lambda: images(2, 3, 6, 6)),
    "tokens by keyword, a mapping returned": (TokenModel, token_inputs),
    "tokens by position": (TokenModel, lambda: tuple(token_inputs().values())),
}


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("runtime", runtimes(*get_args(Runtime)))
@pytest.mark.filterwarnings("ignore")
def test_a_pass_gives_the_networks_own_output(runtime: Runtime, case: str, compact: bool) -> None:
    make, example = CASES[case]
    torch.manual_seed(0)
    network, inputs = make().eval(), Inputs.of(example())
    if compact:
        network = lrpet.compress(network, inputs, keep=0.5).eval()
    with torch.no_grad():
        expected = tensors(inputs.run(network))
        got = tensors(ready(network, inputs, runtime)())
    assert len(got) == len(expected) > 0
    for mine, theirs in zip(got, expected, strict=True):
        assert mine.shape == theirs.shape
        assert (mine - theirs).abs().max() <= 1e-4 * theirs.abs().max().clamp(min=1)


def test_what_a_runtime_cannot_do_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="runtime='tensorrt' must be one of eager, compile, onnxruntime, openvino"):
        check_runtime("tensorrt", CPU)
    with pytest.raises(ValueError, match="openvino is run on the CPU, not on cuda"):
        check_runtime("openvino", torch.device("cuda"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else name)
    with pytest.raises(ImportError, match=r"runtime 'onnxruntime' needs onnxruntime: pip install 'lrpet\[onnx\]'"):
        check_runtime("onnxruntime", CPU)


SIGNALS = """
import signal
import torch
from torch import nn
from lrpet.exporting import openvino
from lrpet.latency.runtimes import export, session
from lrpet.layers.inputs import Inputs

inputs, path = Inputs.of(torch.randn(1, 4)), {path!r}
export(nn.Linear(4, 4), inputs, path)
first = session(path, inputs, "openvino")
second = openvino.runner(path)
del first
del second
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
signal.raise_signal(signal.SIGUSR1)
"""


@exporting
def test_signals_are_handled_after_networks_in_openvino_went(tmp_path: Path) -> None:
    code = SIGNALS.format(path=str(tmp_path / "network.onnx"))
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "handled\n"), result.stderr


class Branching(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


@exporting
@pytest.mark.filterwarnings("ignore")
def test_a_network_that_cannot_be_exported_is_named() -> None:
    with pytest.raises(ValueError, match=r"torch\.export does not get through this Branching: "):
        ready(Branching(), Inputs.of(images(1, 2)), "onnxruntime")


def test_latency_takes_any_inputs_and_leaves_modes_alone() -> None:
    model = TokenModel().train()
    times = latency({"one": model, "two": TokenModel()}, token_inputs(), seconds=0.0)
    assert times.keys() == {"one", "two"}
    assert model.training
