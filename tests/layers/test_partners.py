"""Which batch norm each layer feeds: found by following tensors through an observed forward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from helpers import images
from lrpet.layers.observe import observe
from lrpet.models.factory import create


def partners(model: nn.Module, example: Any) -> dict[str, str | None]:
    return {layer.name: layer.batch_norm for layer in observe(model, example).layers}


class Wired(nn.Module):
    """Two convolutions and two batch norms, declared in the order opposite to any use, wired by the function given."""

    def __init__(self, wiring: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.norm_b, self.norm_a = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.conv_b, self.conv_a = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.wiring = wiring

    def forward(self, x: Tensor) -> Tensor:
        return self.wiring(self, x)


def inplace_between(m: Any, x: Tensor) -> Tensor:
    return m.norm_a(m.conv_a(x).relu_())  # type: ignore[no-any-return]


def inplace_after(m: Any, x: Tensor) -> Tensor:
    return m.norm_a(m.conv_a(x)).relu_()  # type: ignore[no-any-return]


def norm_called_by_keyword(m: Any, x: Tensor) -> Tensor:
    return m.norm_a(input=m.conv_a(x))  # type: ignore[no-any-return]


WIRINGS: list[tuple[str, Callable[[Any, Tensor], Tensor], str | None, str | None]] = [
    # name, forward, expected partner of conv_a, of conv_b
    ("straight", lambda m, x: m.norm_b(m.conv_b(m.norm_a(m.conv_a(x)).relu())), "norm_a", "norm_b"),
    ("crossed", lambda m, x: m.norm_a(m.conv_b(m.norm_b(m.conv_a(x)).relu())), "norm_b", "norm_a"),
    ("pre-activation", lambda m, x: m.conv_b(m.norm_b(m.conv_a(m.norm_a(x).relu())).relu()), "norm_b", None),
    ("pre-activation, sums", lambda m, x: x + m.conv_b(m.norm_b(x + m.conv_a(m.norm_a(x).relu())).relu()), None, None),
    ("activation between", lambda m, x: m.norm_b(m.conv_b(m.norm_a(m.conv_a(x).relu()))), None, "norm_b"),
    ("in-place activation between", inplace_between, None, None),
    ("in-place activation after", inplace_after, "norm_a", None),
    ("identity between", lambda m, x: m.norm_a(nn.Identity()(m.conv_a(x))), "norm_a", None),
    ("one convolution, two norms", lambda m, x: m.norm_a(y := m.conv_a(x)) + m.norm_b(y), None, None),
    ("one norm, two convolutions", lambda m, x: m.norm_a(m.conv_a(x)) + m.norm_a(m.conv_b(x)), None, None),
    ("one norm, a convolution and the input", lambda m, x: m.norm_a(x) + m.norm_a(m.conv_a(x)), None, None),
    ("normed once of two calls", lambda m, x: m.conv_a(m.norm_a(m.conv_a(x))), None, None),
    ("normed at both calls", lambda m, x: m.norm_a(m.conv_a(m.norm_a(m.conv_a(x)))), "norm_a", None),
    ("another norm at each call", lambda m, x: m.norm_b(m.conv_a(m.norm_a(m.conv_a(x)))), None, None),
    ("norm called by keyword", norm_called_by_keyword, "norm_a", None),
    ("sum before the norm", lambda m, x: m.norm_a(m.conv_a(x) + m.conv_b(x)), None, None),
    ("unrelated norm", lambda m, x: m.conv_a(x) + m.norm_a(x.clone()), None, None),
]


@pytest.mark.parametrize(("wiring", "a", "b"), [row[1:] for row in WIRINGS], ids=[row[0] for row in WIRINGS])
def test_partners_follow_the_tensors(wiring: Callable[[Any, Tensor], Tensor], a: str | None, b: str | None) -> None:
    found = partners(Wired(wiring), images(2, 4, 3, 3))
    assert (found["conv_a"], found["conv_b"]) == (a, b)


def test_a_linear_and_a_batch_norm() -> None:
    assert partners(nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)), images(3, 5)) == {"0": "1"}
    # over sequences the norm's channels are dimension 1, not the linear's features
    assert partners(nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)), images(3, 4, 5)) == {"0": None}


@pytest.mark.parametrize(
    ("norm", "partner"),
    [
        (nn.BatchNorm2d(4, affine=False), "1"),
        (nn.SyncBatchNorm(4), "1"),
        (nn.BatchNorm2d(4, track_running_stats=False), None),  # does not fold at inference
        (nn.GroupNorm(2, 4), None),
        (nn.InstanceNorm2d(4), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_batch_norms_with_statistics_fold(norm: nn.Module, partner: str | None) -> None:
    assert partners(nn.Sequential(nn.Conv2d(3, 4, 1), norm), images(2, 3, 4, 4)) == {"0": partner}


def test_the_zoo_pairs_every_convolution() -> None:
    for name in ("resnet20", "vgg16_bn", "googlenet"):
        model = create(name, num_classes=10, in_channels=3)
        found = partners(model, images(1, 3, 32, 32))
        convolutions = [n for n, module in model.named_modules() if isinstance(module, nn.Conv2d)]
        norms = [n for n, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
        assert sorted(filter(None, (found[n] for n in convolutions))) == sorted(norms)
        assert len(norms) == len(convolutions)


@torch.no_grad()
def assert_partners_fold(model: nn.Module, example: Tensor) -> dict[str, str]:
    """Fold every batch norm that was found into its convolution: the output must not change."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    expected = model.double().eval()(example.double())
    found = {name: norm for name, norm in partners(model, example.double()).items() if norm is not None}
    for name, norm_name in found.items():
        convolution, norm = model.get_submodule(name), model.get_submodule(norm_name)
        assert isinstance(convolution, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        bias = convolution.bias if convolution.bias is not None else torch.zeros_like(scale)
        convolution.weight *= scale[:, None, None, None]
        convolution.bias = nn.Parameter((bias - norm.running_mean) * scale + norm.bias)
        norm.running_mean.zero_()
        norm.running_var.fill_(1 - norm.eps)
        norm.weight.fill_(1)
        norm.bias.zero_()
    assert (model(example.double()) - expected).norm() < 1e-9 * expected.norm()
    return found


def test_torchvision_googlenet_pairs_right() -> None:
    model = torchvision.models.googlenet(aux_logits=False, init_weights=False, num_classes=5)
    found = assert_partners_fold(model, images(1, 3, 64, 64))
    convolutions = {name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    assert found == {name: name.removesuffix("conv") + "bn" for name in convolutions}


def test_timm_norm_and_activation_in_one_pair_right() -> None:
    model = timm.create_model("efficientnet_b0", num_classes=5)
    found = assert_partners_fold(model, images(1, 3, 32, 32))
    assert found["conv_stem"] == "bn1"
    assert found["blocks.0.0.conv_pw"] == "blocks.0.0.bn2"  # here conv_dw comes first
    assert found["blocks.1.0.conv_pw"] == "blocks.1.0.bn1"
    assert sorted(found.values()) == sorted(n for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d))
    assert not any(".se." in name for name in found)


def test_timm_pre_activation_pairs_right() -> None:
    model = timm.create_model("densenet121", num_classes=5)
    found = assert_partners_fold(model, images(1, 3, 32, 32))
    assert found["features.denseblock1.denselayer1.conv1"] == "features.denseblock1.denselayer1.norm2"
    assert "features.denseblock1.denselayer1.conv2" not in found  # its output is concatenated before the next norm


def test_inside_inference_mode() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.ReLU(inplace=True))
    with torch.inference_mode():
        assert partners(model, images(1, 3, 4, 4)) == {"0": "1", "2": None}

    class Inferring(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = model

        @torch.inference_mode()
        def forward(self, x: Tensor) -> Tensor:
            return self.layers(x)  # type: ignore[no-any-return]

    # such tensors do not tell whether they were written to, so that no partner can be vouched for
    assert partners(Inferring(), images(1, 3, 4, 4)) == {"layers.0": None, "layers.2": None}
