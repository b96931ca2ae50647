"""What is read back from a file of any format computes what the network computes."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

import lrpet
from exportable import NETWORKS, Tokens, compact
from lrpet.exporting import verify
from lrpet.exporting.sessions import openvino_core
from lrpet.layers.inputs import Inputs
from old_torch import exporting

pytestmark = [
    exporting,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

SUFFIXES = {"onnx": ".onnx", "pt2": ".pt2", "openvino": ".xml", "executorch": ".pte"}
#: Lowering to ExecuTorch takes its time.
FEW = ("batch norm", "tokens")
PAIRS = [(f, n) for f, n in itertools.product(SUFFIXES, NETWORKS) if f != "executorch" or n in FEW]
NAMES = {
    "tokens": (["input_ids", "attention_mask"], ["logits", "states_0"]),
    "two": (["x", "shift"], ["output_0", "output_1"]),
}


def plain(output: Any) -> list[torch.Tensor]:
    if isinstance(output, dict):
        return [output["logits"], output["states"][0]]
    return [output] if isinstance(output, torch.Tensor) else list(output)


@pytest.mark.parametrize(("format", "name"), PAIRS)
def test_round_trip(format: str, name: str, tmp_path: Path) -> None:
    if format == "executorch":
        pytest.importorskip("executorch.runtime", reason="executorch is not installed: pip install 'lrpet[executorch]'")
    network, example, more = compact(name)
    modes = [module.training for module in network.train().modules()]
    path = tmp_path / f"network{SUFFIXES[format]}"
    artefact = lrpet.export(network, path, example, inputs=[more])
    assert [module.training for module in network.modules()] == modes

    inputs = Inputs.of(more)
    tensors = [more[key] for key in ("input_ids", "attention_mask")] if name == "tokens" else inputs.tensors
    outputs = verify(path).runner()(tensors)
    with torch.no_grad():
        expected = plain(inputs.run(network.eval()))
    for got, wanted in zip(outputs, expected, strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)

    takes, gives = NAMES.get(name, (["x" if name == "vision transformer" else "input"], ["output"]))
    manifest = artefact.manifest
    assert (manifest["format"], manifest["outputs"]) == (format, gives)
    assert [each["name"] for each in manifest["inputs"]] == takes
    assert manifest["inputs"][0]["shape"][0] == "batch"
    random, given = manifest["checks"]
    assert len(Inputs.of(example).tensors[0]) + 2 in random["batch_sizes"]
    assert (16 in random["batch_sizes"]) == (format == "executorch")  # the largest that it takes
    assert (random["on"], given["on"], given["rows"], given["agreement"]) == ("random", "given", 5, 1.0)
    assert 0 <= artefact.error < 1e-4
    assert manifest.keys() >= {"versions", "tolerance", "network", "files"}
    assert {file.name for file in tmp_path.iterdir()} == {f"{path.name}.json", *manifest["files"]}


def test_onnx_runtime_reads_the_file_by_the_names(tmp_path: Path) -> None:
    import onnxruntime

    network, example, more = compact("tokens")
    lrpet.export(network, tmp_path / "tokens.onnx", example)
    session = onnxruntime.InferenceSession(str(tmp_path / "tokens.onnx"), providers=["CPUExecutionProvider"])
    assert [each.shape for each in session.get_inputs()] == [["batch", 7], ["batch", 7]]
    feed = {name: more[name].numpy() for name in ("input_ids", "attention_mask")}
    (logits,) = session.run(["logits"], feed)
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(logits), network.eval()(**more)["logits"], atol=1e-5, rtol=1e-4)


def test_openvino_reads_the_file_by_the_names_and_keeps_fixed_sizes(tmp_path: Path) -> None:
    network, example, _ = compact("two")
    lrpet.export(network, tmp_path / "two.xml", example)
    model = openvino_core().read_model(tmp_path / "two.xml")
    assert {port.any_name: str(port.partial_shape) for port in model.inputs} == {"x": "[?,6]", "shift": "[8]"}
    assert all(f"output_{i}" in port.names for i, port in enumerate(model.outputs))


def test_torch_reads_the_file_and_calls_it_as_the_network(tmp_path: Path) -> None:
    network, example, more = compact("tokens")
    lrpet.export(network, tmp_path / "tokens.pt2", example)
    module = torch.export.load(tmp_path / "tokens.pt2").module()
    with torch.no_grad():
        got = module(input_ids=more["input_ids"], attention_mask=more["attention_mask"])
        expected = network.eval()(**more)
    assert list(got) == ["logits", "states_0"]
    torch.testing.assert_close(got["logits"], expected["logits"])


def test_what_is_no_tensor_is_left_out_and_said(tmp_path: Path) -> None:
    class WithCache(Tokens):
        def forward(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
            return {**super().forward(*args, **kwargs), "cache": {"used": True}}

    example = {"input_ids": torch.arange(6).view(2, 3), "attention_mask": torch.ones(2, 3)}
    with pytest.warns(UserWarning, match="no tensors and are not exported: cache_used"):
        artefact = lrpet.export(WithCache(), tmp_path / "tokens.pt2", example)
    assert artefact.manifest["left_out"] == ["cache_used"]
    assert artefact.manifest["outputs"] == ["logits", "states_0"]
