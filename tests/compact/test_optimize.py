"""Optimised networks compute what they did, leave the original alone, and are plain networks to whatever traces them."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lrpet
from helpers import Small, images, realistic_
from lrpet.compact import cpu_convolution, cpu_linear
from lrpet.compact.cpu_convolution import CpuConv2d
from lrpet.compact.cpu_linear import CpuLinear
from lrpet.compact.optimize import optimize
from lrpet.layers.batch_norm import is_batch_norm
from old_torch import exporting
from tiny_transformers import TOKENS, compacted, generated


class Shared(nn.Module):
    """One batch norm after two convolutions, and one after a branch: neither folds."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.norm = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.third, self.branch_norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.third(self.norm(self.second(self.norm(self.first(x)))))
        return self.branch_norm(x) + x  # type: ignore[no-any-return]


def compact_small(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    model = realistic_(Small(), images(8, 3, 8, 8))
    return lrpet.compress(model, images(1, 3, 8, 8), keep=0.3, **options)


def compact_spatial() -> nn.Module:
    return compact_small(unfolding="spatial")


def grouped() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, groups=4), nn.BatchNorm2d(8))


def transposed() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 1), nn.ConvTranspose2d(8, 4, 3, stride=2), nn.BatchNorm2d(4))


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))


def without_batch_norm() -> nn.Module:
    same = nn.Conv2d(4, 4, 3, padding="same", padding_mode="reflect")
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1, dilation=2), nn.GELU(), same, nn.Conv2d(4, 4, 1))


NETWORKS = {
    compact_small: 1, compact_spatial: 1, grouped: 2, transposed: 1, linear: 1, without_batch_norm: 0, Shared: 0,
}  # fmt: skip


def given(make: Callable[[], nn.Module]) -> tuple[nn.Module, Tensor]:
    """Return a network with statistics, and a batch for it."""
    torch.manual_seed(0)
    x = images(4, 3, 8, 8)
    return realistic_(make(), x), x


def outputs(*models: nn.Module, x: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return [model(x) for model in models]


@pytest.fixture(params=["plain", "product", "packed"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every way in which a convolution or a linear may be computed, small as it is here."""
    product, packed = {"plain": (0, 2**60), "product": (2**60, 2**60), "packed": (0, 0)}[request.param]
    monkeypatch.setattr(cpu_convolution, "PRODUCT", product)
    monkeypatch.setattr(cpu_convolution, "PACKED", packed)
    monkeypatch.setattr(cpu_linear, "CACHED", packed)
    return str(request.param)


@pytest.mark.parametrize("make", NETWORKS)
def test_outputs_are_what_they_were(make: Callable[[], nn.Module], way: str) -> None:
    model, x = given(make)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimized = optimize(model.train(), x[:1])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(module.training and type(module) is not CpuConv2d for module in model.modules())
    assert not any(module.training for module in optimized.modules())
    assert len(optimized.lrpet_folded) == NETWORKS[make]  # type: ignore[arg-type]
    remaining = sum(map(is_batch_norm, optimized.modules()))
    assert remaining == sum(map(is_batch_norm, model.modules())) - NETWORKS[make]
    twice = optimize(optimized, x[:1])
    assert twice.lrpet_folded == optimized.lrpet_folded
    for batch in (x, x[:1]):
        expected, got, again = outputs(model.eval(), optimized, twice, x=batch)
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(again, expected, rtol=1e-5, atol=1e-5)
    ready = [module for module in optimized.modules() if isinstance(module, CpuConv2d)]
    assert any(module.packed_bytes for module in ready) == (way == "packed" and bool(ready))


def test_a_convolution_is_packed_for_its_input_and_its_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_convolution, "PACKED", 0)
    plain = nn.Conv2d(3, 5, 3)
    (conv,) = optimize(nn.Sequential(plain), images(1, 3, 8, 8)).children()
    for size in ((1, 3, 8, 8), (2, 3, 9, 7), (1, 3, 8, 8)):
        torch.testing.assert_close(*outputs(conv, plain, x=images(*size)))
    assert isinstance(conv, CpuConv2d)
    other = nn.Conv2d(3, 5, 3)
    conv.load_state_dict(other.state_dict())
    torch.testing.assert_close(*outputs(conv, other, x=images(1, 3, 8, 8)))
    copied = copy.deepcopy(conv)
    torch.save(conv, file := io.BytesIO())
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert conv.packed_bytes == 4 * 5 * 27
    assert (copied.packed_bytes, loaded.packed_bytes) == (0, 0)
    x = images(1, 3, 8, 8)
    expected, *same = outputs(other, copied, loaded, x=x)
    for each in same:
        torch.testing.assert_close(each, expected)
    with torch.inference_mode():
        torch.testing.assert_close(optimize(nn.Sequential(other), x)(x), expected)


@pytest.mark.parametrize("shape", [(6,), (3, 6), (2, 3, 6), (0, 6)])
def test_linears_take_inputs_of_any_shape(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_linear, "CACHED", 0)
    model = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 4, bias=False))
    optimized = optimize(model, images(1, 6))
    assert {type(module) for module in optimized.children()} == {CpuLinear}
    called: list[Any] = []
    real = torch.ops.mkldnn._linear_pointwise

    def counted(*args: Any) -> Any:
        called.append(args)
        return real(*args)

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", counted)
    for x in (images(*shape), images(*reversed(shape)).permute(*range(len(shape))[::-1])):
        torch.testing.assert_close(*outputs(model, optimized, x=x))
    assert len(called) == (4 if len(shape) > 1 and all(shape) else 0)


def test_an_optimised_language_model_generates_what_it_did(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_linear, "CACHED", 0)
    compact = compacted("llama")
    optimized = optimize(compact, TOKENS)
    assert any(isinstance(module, CpuLinear) for module in optimized.modules())
    assert torch.equal(generated(optimized, "llama"), generated(compact, "llama"))


def test_small_products_stay_plain_where_weights_stay_in_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    assert {module.least for module in optimize(model, images(1, 64)).children()} == {cpu_linear.CACHED}
    monkeypatch.setattr(cpu_linear, "CACHE", 4 * 2 * 64 * 64 - 1)
    assert {module.least for module in optimize(model, images(1, 64)).children()} == {cpu_linear.FROM_MEMORY}


def test_layers_that_two_names_refer_to() -> None:
    x = images(4, 3, 8, 8)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    model.append(nn.ModuleDict({"conv": model[0], "norm": model[1]}))
    model[2].forward = nn.Identity().forward
    optimized = optimize(realistic_(model, x), x)
    assert not any(map(is_batch_norm, optimized.modules()))
    assert optimized.get_submodule("2.conv") is optimized.get_submodule("0")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_types_are_kept(dtype: torch.dtype) -> None:
    model, x = given(compact_small)
    model, x = model.to(dtype), x.to(dtype)
    optimized = optimize(model, x)
    assert {parameter.dtype for parameter in optimized.parameters()} == {dtype}
    expected, got = outputs(model, optimized, x=x)
    torch.testing.assert_close(got, expected, rtol=0.05, atol=0.05 * float(expected.abs().max()))
    assert got.dtype == dtype


def test_gradients_of_inputs_and_autocast(way: str) -> None:
    model, x = given(compact_small)
    optimized = optimize(model, x)
    gradients = []
    for network in (model, optimized):
        leaf = x.clone().requires_grad_()
        network(leaf).sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)
    assert not any(parameter.requires_grad for parameter in optimized.parameters())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected, got = outputs(model, optimized, x=x)
    assert got.dtype == expected.dtype


@exporting
def test_it_is_plain_to_what_traces_it(way: str, tmp_path: Path) -> None:
    model, x = given(compact_small)
    optimized = optimize(model, x)
    (expected,) = outputs(model, x=x)
    with torch.no_grad():
        compiled = torch.compile(optimized, backend="eager", fullgraph=True)(x)
        program = torch.export.export(optimized, (x,))
    kinds = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert kinds >= {"aten.conv2d.default", "aten.linear.default"}
    assert not [kind for kind in kinds if kind.startswith("mkldnn") or "permute" in kind or "batch_norm" in kind]
    for got in (compiled, program.module()(x)):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    lrpet.export(optimized, tmp_path / "small.onnx", x)  # checks what it wrote


def test_networks_on_another_device_get_no_layers_of_the_cpu() -> None:
    assert not CpuConv2d.fits(nn.Conv2d(3, 4, 3, device="meta"))


def test_the_weight_of_a_pair_that_keeps_images_as_nhwc() -> None:
    model, x = given(compact_small)
    pair = optimize(model, x).get_submodule("second")
    torch.testing.assert_close(pair.weight, model.get_submodule("second").weight, rtol=1e-5, atol=1e-6)


def test_an_optimised_network_is_not_saved(tmp_path: Path) -> None:
    model, x = given(compact_small)
    with pytest.raises(ValueError, match=r"save the compact network, and optimise what is loaded again"):
        lrpet.save(optimize(model, x), tmp_path / "compact")
    assert list(tmp_path.iterdir()) == []
    lrpet.save(model, tmp_path / "compact")
