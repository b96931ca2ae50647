"""Networks that timm and torchvision made are recognised; networks that were changed are not."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
from torch import nn

from lrpet import models
from lrpet.models import Source, source_of


def test_a_network_of_create_says_so_itself() -> None:
    assert source_of(models.create("resnet20", num_classes=7)) == Source("resnet20", 7, 3)


@pytest.mark.parametrize(
    ("model", "source"),
    [
        (lambda: timm.create_model("resnet10t", num_classes=7), Source("timm:resnet10t", 7, 3)),
        (lambda: timm.create_model("resnet10t", num_classes=7, in_chans=1), Source("timm:resnet10t", 7, 1)),
        (lambda: timm.create_model("resnet10t", drop_path_rate=0.1, drop_rate=0.2), Source("timm:resnet10t", 1000, 3)),
        (
            lambda: timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=7),
            Source("timm:vit_tiny_patch16_224", 7, 3, {"img_size": 32}),
        ),
        (
            lambda: timm.create_model("vit_tiny_patch16_224", img_size=(32, 64), num_classes=7),
            Source("timm:vit_tiny_patch16_224", 7, 3, {"img_size": [32, 64]}),
        ),
        (lambda: torchvision.models.resnet18(num_classes=7), Source("torchvision:resnet18", 7, 3)),
        (lambda: torchvision.models.squeezenet1_1(num_classes=7), Source("torchvision:squeezenet1_1", 7, 3)),
        (lambda: torchvision.models.regnet_y_400mf(), Source("torchvision:regnet_y_400mf", 1000, 3)),
        (
            lambda: torchvision.models.googlenet(num_classes=7, aux_logits=False, init_weights=False),
            Source("torchvision:googlenet", 7, 3, {"transform_input": False}),
        ),
    ],
)
def test_made_again_from_its_name(model: Callable[[], nn.Module], source: Source) -> None:
    made = model().eval()
    found = source_of(made)
    assert found == source
    again = Source.from_dict(json.loads(json.dumps(found.to_dict()))).build().eval()
    again.load_state_dict(made.state_dict())
    size = found.arguments.get("img_size", 64)
    images = torch.randn(2, found.in_channels, *(size if isinstance(size, list) else [size, size]))
    with torch.no_grad():
        torch.testing.assert_close(again(images), made(images))


def changed(layer: str, replacement: nn.Module) -> nn.Module:
    model: nn.Module = torchvision.models.resnet18()
    setattr(model, layer, replacement)
    return model


def parametrized() -> nn.Module:
    model: nn.Module = torchvision.models.resnet18()
    nn.utils.parametrizations.weight_norm(model.get_submodule("fc"))
    return model


@pytest.mark.parametrize(
    "model",
    [
        lambda: nn.Sequential(nn.Linear(4, 4)),
        lambda: timm.create_model("resnet10t", output_stride=8),
        lambda: timm.create_model("resnet10t", act_layer=nn.SiLU),
        lambda: timm.create_model("resnet10t", global_pool="max"),
        lambda: timm.create_model("resnet10t", num_classes=0),
        lambda: timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8),
        lambda: torchvision.models.resnet18(norm_layer=nn.InstanceNorm2d),
        lambda: torchvision.models.resnet50(replace_stride_with_dilation=[False, False, True]),
        lambda: torchvision.models.googlenet(init_weights=False),
        lambda: changed("conv1", nn.Conv2d(3, 64, 3, padding=1, bias=False)),
        lambda: changed("maxpool", nn.Identity()),
        parametrized,
    ],
)
def test_a_changed_network_is_not_recognised(model: Callable[[], nn.Module]) -> None:
    assert source_of(model()) is None


def test_a_classifier_of_other_size_is_recognised() -> None:
    assert source_of(changed("fc", nn.Linear(512, 5))) == Source("torchvision:resnet18", 5, 3)


def test_recognising_draws_no_random_numbers() -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=32)
    before = torch.get_rng_state()
    assert source_of(model) is not None
    assert torch.equal(torch.get_rng_state(), before)
