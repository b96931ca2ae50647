"""Networks by name: known sizes, reproducible initialisation, sources, refusals."""

from __future__ import annotations

import copy
import json
import sys
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import WeightsEnum

from lrpet import models
from lrpet.models import Source


def macs(model: nn.Module, *shape: int) -> int:
    model.eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, *shape))
    return int(counter.get_total_flops()) // 2


@pytest.mark.parametrize(
    ("name", "millions_of_macs", "millions_of_parameters"),
    [  # as counted in the pruning literature
        ("resnet20", 40.55, 0.27),
        ("resnet32", 68.86, 0.46),
        ("resnet56", 125.49, 0.85),
        ("resnet110", 252.89, 1.73),
        ("vgg16_bn", 313.46, 14.99),
        ("googlenet", 1521.76, 6.16),
    ],
)
def test_zoo_has_the_known_sizes(name: str, millions_of_macs: float, millions_of_parameters: float) -> None:
    model = models.create(name)
    assert macs(model, 3, 32, 32) / 1e6 == pytest.approx(millions_of_macs, abs=0.01)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions_of_parameters, abs=0.006)


def test_every_name_is_in_the_list_of_known_sizes() -> None:
    assert models.names() == ["resnet8", "resnet20", "resnet32", "resnet56", "resnet110", "vgg16_bn", "googlenet"]


@pytest.mark.parametrize("name", ["resnet20", "googlenet"])
def test_small_images_of_one_channel(name: str) -> None:
    model = models.create(name, num_classes=7, in_channels=1)
    assert model(torch.randn(2, 1, 8, 8)).shape == (2, 7)


def test_vgg_refuses_images_that_it_would_pool_away() -> None:
    with pytest.raises(ValueError, match="at least 16"):
        models.create("vgg16_bn")(torch.randn(2, 3, 8, 8))


@pytest.mark.parametrize(
    "name", ["resnet20", "vgg16_bn", "googlenet", "timm:vit_tiny_patch16_224", "torchvision:resnet18"]
)
def test_seed_decides_the_weights(name: str) -> None:
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(models.create(name).state_dict())
    same, other = ([torch.equal(states[0][key], state[key]) for key in states[0]] for state in states[1:])
    assert all(same)
    assert not all(other)


@pytest.mark.parametrize("name", ["resnet20", "vgg16_bn", "googlenet"])
def test_every_parameter_is_reached_by_the_gradient(name: str) -> None:
    model = models.create(name)
    model(torch.randn(2, 3, 32, 32)).square().sum().backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
        assert parameter.grad.any()


def test_shortcuts_have_no_parameters() -> None:
    """Where a stage begins, the shortcut subsamples, and pads the new channels with zeros on both sides."""
    model = models.create("resnet20").eval()
    block = model.get_submodule("layer2.0")
    for parameter in block.get_submodule("bn2").parameters():
        nn.init.zeros_(parameter)  # the residual branch adds nothing
    x = torch.rand(2, 16, 8, 8)
    expected = torch.zeros(2, 32, 4, 4)
    expected[:, 8:24] = x[:, :, ::2, ::2]
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize("name", ["resnet20", "timm:resnet10t", "torchvision:squeezenet1_1"])
def test_source_survives_copies_and_json(name: str) -> None:
    model = copy.deepcopy(models.create(name, num_classes=5))
    source = model.lrpet_source
    assert isinstance(source, Source)
    again = Source.from_dict(json.loads(json.dumps(source.to_dict())))
    assert again == source == Source(name=name, num_classes=5, in_channels=3)
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    assert {key: value.shape for key, value in again.build().state_dict().items()} == shapes


@pytest.mark.parametrize(
    "data",
    [
        None,
        {},
        {"name": "resnet20", "num_classes": 10},
        {"name": "resnet20", "num_classes": "10", "in_channels": 3},
        {"name": "resnet20", "num_classes": 10, "in_channels": 3, "arguments": {}, "command": "x"},
        {"name": "resnet20", "num_classes": 10, "in_channels": 3, "arguments": []},
    ],
)
def test_damaged_sources_are_refused(data: object) -> None:
    with pytest.raises(ValueError, match="source must have"):
        Source.from_dict(data)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("resnet21", "resnet20"),
        ("resnet18", "timm:resnet18"),
        ("timm:resnet19", "timm:resnet18"),
        ("torchvision:resnet19", "torchvision:resnet18"),
        ("timm:resnet18.a1_in2k", "timm:resnet18.a1_in1k"),
        ("keras:resnet50", "torchvision:resnet50 or resnet56"),
        ("", "lrpet.models.names()"),
    ],
)
def test_unknown_names_get_a_hint(name: str, hint: str) -> None:
    with pytest.raises(ValueError, match="there is no model") as caught:
        models.create(name)
    assert repr(name) in str(caught.value)
    assert hint in str(caught.value)


@pytest.mark.parametrize("name", ["resnet21", "nosuch", "timm:nosuch", "torchvision:fcn_resnet50"])
def test_only_names_that_exist_are_hinted_at(name: str) -> None:
    with pytest.raises(ValueError, match="there is no model") as caught:
        models.create(name)
    message = str(caught.value)
    if "Did you mean" in message:
        for hint in message.split("Did you mean ")[1].split("?")[0].split(" or "):
            assert models.create(hint).lrpet_source == Source(name=hint, num_classes=10, in_channels=3)
    else:
        assert "nosuch" in name


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_without_the_libraries(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing library is named with the command that brings it; lrpet's own networks need neither."""
    for missing in ("timm", "torchvision"):
        monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=r"pip install 'lrpet\[train\]'"):
        models.create(f"{library}:resnet18")
    models.create("resnet20")
    with pytest.raises(ValueError, match="Did you mean resnet"):
        models.create("resnet18")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("torchvision:resnet18", {"in_channels": 1}, "in_channels=1"),
        ("torchvision:resnet18", {"pretrained": True}, "1000 classes, not 10"),
        ("resnet20", {"pretrained": True}, "no pretrained weights"),
        ("timm:coatnet_0_224", {"pretrained": True}, "no pretrained weights"),
        ("resnet20", {"num_classes": 0}, "num_classes must be at least 1"),
        ("timm:resnet10t", {"in_channels": 0}, "in_channels must be at least 1"),
    ],
)
def test_what_a_network_cannot_have_is_refused(
    name: str, options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is downloaded."""

    def download(*_: object, **__: object) -> None:
        raise AssertionError("weights were asked for")

    monkeypatch.setattr(WeightsEnum, "get_state_dict", download)
    with pytest.raises(ValueError, match=message):
        models.create(name, **options)


@pytest.mark.parametrize(("name", "side"), [("googlenet", 32), ("inception_v3", 75)])
def test_pretrained_network_can_be_made_again_from_its_name(
    name: str, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchvision gives these two auxiliary heads and rescaled inputs when they come with weights."""
    with monkeypatch.context() as offline:
        offline.setattr(WeightsEnum, "get_state_dict", lambda *_, **__: {})
        offline.setattr(nn.Module, "load_state_dict", lambda *_, **__: None)
        model = models.create(f"torchvision:{name}", num_classes=1000, pretrained=True).eval()
    assert isinstance(model.lrpet_source, Source)
    again = model.lrpet_source.build().eval()
    again.load_state_dict(model.state_dict())
    assert again.transform_input == model.transform_input
    x = torch.randn(1, 3, side, side)
    torch.testing.assert_close(again(x), model(x))


@pytest.mark.parametrize(("name", "side"), [("resnet10t", 64), ("vit_tiny_patch16_224", 224)])
def test_timm_adapts_channels(name: str, side: int) -> None:
    model = models.create(f"timm:{name}", num_classes=4, in_channels=1).eval()
    assert model(torch.randn(1, 1, side, side)).shape == (1, 4)


@pytest.mark.parametrize(("name", "side"), [("googlenet", 32), ("inception_v3", 96)])
def test_torchvision_gives_a_tensor_in_training(name: str, side: int) -> None:
    model = models.create(f"torchvision:{name}", num_classes=4).train()
    assert model(torch.randn(2, 3, side, side)).shape == (2, 4)


def test_further_arguments_reach_the_library_and_the_source() -> None:
    arguments = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2}
    model = models.create("timm:vit_tiny_patch16_224", num_classes=3, arguments=arguments)
    assert isinstance(model.lrpet_source, Source)
    assert model.lrpet_source.arguments == arguments
    assert model.lrpet_source.build()(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
    torchvision = models.create("torchvision:vgg11", num_classes=3, arguments={"dropout": 0.25})
    assert torchvision.get_submodule("classifier.2").p == 0.25
    with pytest.raises(ValueError, match="'resnet20' takes no further arguments; got depth"):
        models.create("resnet20", arguments={"depth": 3})
    for name in ("timm:resnet18", "torchvision:resnet18"):
        with pytest.raises(ValueError, match=f"{name} does not take the arguments storeys"):
            models.create(name, arguments={"storeys": 3})
