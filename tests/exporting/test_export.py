"""An exported file is whole, checked and described, or it is not there."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.torch_version import TorchVersion

import lrpet
from exportable import compact
from lrpet.exporting import pt2, verify
from lrpet.exporting.checking import difference
from lrpet.exporting.drawing import Input
from old_torch import exporting

EXAMPLE = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    lrpet.export(network(), tmp_path / "network.pt2", EXAMPLE)
    return tmp_path / "network.pt2"


def wrong_runner(path: Path) -> Any:
    return lambda tensors: [torch.zeros(len(tensors[0]), 3)]


@exporting
def test_a_failed_check_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pt2, "runner", wrong_runner)
    with pytest.raises(ValueError, match=r"network\.pt2 differs from the network's by 1\.0e\+00 .* on random inputs"):
        lrpet.export(network(), tmp_path / "network.pt2", EXAMPLE)
    assert list(tmp_path.iterdir()) == []


@exporting
def test_a_failed_check_leaves_what_was_there(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {file.name: file.read_bytes() for file in exported.parent.iterdir()}
    monkeypatch.setattr(pt2, "runner", wrong_runner)
    with pytest.raises(ValueError, match="differs"):
        lrpet.export(network(), exported, EXAMPLE, overwrite=True)
    assert {file.name: file.read_bytes() for file in exported.parent.iterdir()} == before


@exporting
def test_the_tolerance_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pt2, "runner", wrong_runner)
    artefact = lrpet.export(network(), tmp_path / "network.pt2", EXAMPLE, tolerance=1.5)
    assert artefact.error == 1.0


@exporting
@pytest.mark.parametrize("name", ["network.pt2", "network.pt2.json"])
def test_files_that_are_there_are_kept(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(FileExistsError, match="overwrite"):
        lrpet.export(network(), tmp_path / "network.pt2", EXAMPLE)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["mine"]
    lrpet.export(network(), tmp_path / "network.pt2", EXAMPLE, overwrite=True)
    assert verify(tmp_path / "network.pt2").format == "pt2"


@exporting
def test_another_files_weights_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "network.bin").write_text("mine")
    with pytest.raises(FileExistsError, match=r"network\.bin exists"):
        lrpet.export(network(), tmp_path / "network.xml", EXAMPLE)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["mine"]


@exporting
def test_the_format_may_be_said(tmp_path: Path) -> None:
    artefact = lrpet.export(network(), tmp_path / "network.bin", EXAMPLE, format="pt2")
    assert verify(artefact.path).format == "pt2"
    for options, message in (({}, "does not say the format"), ({"format": "tflite"}, "there is no format 'tflite'")):
        with pytest.raises(ValueError, match=message):
            lrpet.export(network(), tmp_path / "other.bin", EXAMPLE, **options)  # type: ignore[arg-type]


# ── verification ─────────────────────────────────────────────────────────────────────────────────────────────────────


@exporting
def test_a_tampered_file_is_refused(exported: Path) -> None:
    content = bytearray(exported.read_bytes())
    content[len(content) // 2] ^= 1
    exported.write_bytes(content)
    with pytest.raises(ValueError, match=r"network\.pt2 is not the file that was exported.*export the network again"):
        verify(exported)


@exporting
@pytest.mark.parametrize("name", ["network.xml", "network.bin"])
def test_every_file_of_openvino_is_looked_at(name: str, tmp_path: Path) -> None:
    path = tmp_path / "network.xml"
    lrpet.export(network(), path, EXAMPLE)
    verify(path)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[:-4])
    with pytest.raises(ValueError, match=f"{name} is not the file"):
        verify(path)
    (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{name} is missing"):
        verify(path)


@exporting
def test_a_file_that_its_library_cannot_read_is_refused(exported: Path) -> None:
    """Its checksum is right, so that running it is what fails."""
    from lrpet.exporting.artefact import described

    exported.write_bytes(b"nothing that torch knows")
    manifest = json.loads(exported.with_name("network.pt2.json").read_text())
    manifest["files"]["network.pt2"] = described(exported)
    exported.with_name("network.pt2.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="does not run here"):
        verify(exported)


@exporting
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: "{", "is damaged"),
        (lambda text: "[" * 100_000, "is damaged"),
        (lambda text: text.replace('"dtype": "float32"', '"dtype": "load"'), "is damaged"),
        (
            lambda text: text.replace('"example": ', '"example": 123456789'),
            "numbers, and at most 268,435,456 are drawn",
        ),
        (lambda text: text.replace('"network.pt2":', '"../network.pt2": {}, "network.pt2":'), "files of other folders"),
        (lambda text: text.replace('"version": 1', '"version": 9'), "version 9"),
        (lambda text: text.replace('"format": "pt2"', '"format": "x"'), "does not describe"),
        *(
            (lambda text, name=name: text.replace(f'"{name}"', '"other"'), "is damaged")
            for name in ("files", "outputs", "checks", "error", "bytes", "inputs", "example")
        ),
        (lambda text: text.replace('"files": {', '"files": ["network.pt2"], "other": {'), "is damaged"),
        (lambda text: text.replace('"outputs": [', '"outputs": {"a": 1}, "other": ['), "no list of outputs"),
    ],
)
def test_a_damaged_manifest_is_refused(change: Any, message: str, exported: Path) -> None:
    manifest = exported.with_name("network.pt2.json")
    manifest.write_text(change(manifest.read_text()))
    with pytest.raises(ValueError, match=message):
        verify(exported)
    manifest.unlink()
    with pytest.raises(FileNotFoundError, match=r"network\.pt2\.json is missing"):
        verify(exported)


# ── what cannot be exported ──────────────────────────────────────────────────────────────────────────────────────────


class Pairs(nn.Module):
    """Takes batches of two."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x.reshape(2, -1)


@exporting
def test_a_fixed_batch_size_has_to_be_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "pairs.pt2"
    with pytest.raises(ValueError, match="not exported with a free batch size: pass dynamic_batch=False"):
        lrpet.export(Pairs(), path, EXAMPLE)
    artefact = lrpet.export(Pairs(), path, EXAMPLE, dynamic_batch=False, inputs=[torch.randn(5, 4), torch.randn(2, 4)])
    assert artefact.manifest["batch"] == {"dynamic": False, "example": 2, "largest": 2}
    assert artefact.manifest["inputs"][0]["shape"] == [2, 4]
    assert [check["batch_sizes"] for check in artefact.manifest["checks"]] == [[2], [2]]
    assert artefact.manifest["checks"][1]["rows"] == 8  # a batch of five is three pairs


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x if x.sum() > 0 else x


@exporting
def test_what_cannot_be_traced_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not get through this Branching: GuardOnDataDependent"):
        lrpet.export(Branching(), tmp_path / "branching.pt2", EXAMPLE)
    assert list(tmp_path.iterdir()) == []


class Nothing(nn.Module):
    def forward(self, x: Tensor) -> None:
        return None


@exporting
def test_a_network_without_inputs_or_outputs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Nothing returns no tensor"):
        lrpet.export(Nothing(), tmp_path / "nothing.pt2", EXAMPLE)
    with pytest.raises(ValueError, match="no tensor with a batch"):
        lrpet.export(Pairs(), tmp_path / "pairs.pt2", torch.tensor(1.0))


@exporting
@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([(EXAMPLE, torch.zeros(2, dtype=torch.int64))], "without labels"),
        ([EXAMPLE.double()], "float64.*float32"),
        ([EXAMPLE[:, :3]], "without labels"),
        ([], "no batches"),
    ],
)
def test_given_inputs_of_another_kind_are_refused(batches: list[Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        lrpet.export(network(), tmp_path / "network.pt2", EXAMPLE, inputs=batches)
    assert list(tmp_path.iterdir()) == []


def test_an_old_torch_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.6.0+cpu"))
    with pytest.raises(ImportError, match=r"needs torch 2\.7 or newer, and this is 2\.6\.0"):
        lrpet.export(network(), tmp_path / "network.pt2", EXAMPLE)


@exporting
@pytest.mark.parametrize(
    ("suffix", "library", "extra"),
    [(".onnx", "onnxscript", "onnx"), (".xml", "openvino", "openvino"), (".pte", "executorch", "executorch")],
)
def test_a_missing_library_is_named(
    suffix: str, library: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=rf"{library} is not installed.*pip install 'lrpet\[{extra}\]'"):
        lrpet.export(network(), tmp_path / f"network{suffix}", EXAMPLE)
    assert list(tmp_path.iterdir()) == []


# ── what is drawn, and how it is compared ────────────────────────────────────────────────────────────────────────────


def test_random_inputs_are_like_the_example() -> None:
    random = torch.Generator().manual_seed(0)
    floats = Input.of("x", 5 + 3 * torch.randn(50, 40, generator=random), batched=True).draw(500, random)
    assert floats.shape == (500, 40)
    torch.testing.assert_close(torch.stack(torch.std_mean(floats)), torch.tensor([3.0, 5.0]), atol=0.2, rtol=0)
    assert Input.of("x", torch.zeros(2, 30), batched=True).draw(30, random).std() > 0.9
    tokens = Input.of("ids", torch.tensor([[3, 9], [4, 3]], dtype=torch.int32), batched=True).draw(200, random)
    assert tokens.dtype is torch.int32
    assert set(tokens.flatten().tolist()) == set(range(3, 10))
    mask = torch.tensor([[True, False], [False, False]])
    assert torch.equal(Input.of("mask", mask, batched=True).draw(3, random), mask[[0, 1, 0]])
    assert torch.equal(Input.of("mask", mask, batched=False).draw(3, random), mask)
    scores = torch.tensor([0.0, -torch.inf])
    assert torch.equal(Input.of("scores", scores, batched=False).draw(3, random), scores)


@pytest.mark.parametrize("dynamic", [True, False])
def test_the_manifest_knows_how_to_draw_them(dynamic: bool) -> None:
    for example in (EXAMPLE, torch.tensor([[1, 5]]), torch.tensor([True, False]), torch.tensor(3.0)):
        spec = Input.of("x", example, batched=example.dim() > 0)
        data = json.loads(json.dumps(spec.to_dict(dynamic=dynamic)))
        assert Input.from_dict(data, batch=len(example) if example.dim() else 1) == spec


@pytest.mark.parametrize(
    ("got", "expected", "error"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([1.0, -4.0], [1.5, -5.0], 0.2),
        ([0.0, 0.0], [0.0, 0.0], 0.0),
        ([0.0, 1e-9], [0.0, 0.0], float("inf")),
        ([1.0, float("nan")], [1.0, 2.0], float("inf")),
        ([1.0, 2.0], [1.0, float("nan")], float("inf")),
        ([1.0, float("-inf")], [1.0, float("-inf")], 0.0),
        ([1.0, float("inf")], [1.0, float("-inf")], float("inf")),
        ([], [], 0.0),
    ],
)
def test_the_error_is_relative_to_the_largest_value(got: list[float], expected: list[float], error: float) -> None:
    assert difference(torch.tensor(got), torch.tensor(expected)) == pytest.approx(error)


@exporting
def test_the_wrapper_of_a_compiled_network_is_left_behind(tmp_path: Path) -> None:
    model: Any = torch.compile(compact("two")[0])
    artefact = lrpet.export(model, tmp_path / "two.pt2", (torch.randn(2, 6), torch.randn(8)))
    assert artefact.manifest["network"].endswith(".Two")
