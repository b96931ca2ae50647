"""The compact model computes what the projected one did, at the cost that the plan says."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

import lrpet
from helpers import images, matrix_macs, matrix_params, realistic_
from lrpet.layers.factors import FactorPair
from lrpet.models.factory import create


def vision_transformer() -> nn.Module:
    model: nn.Module = timm.models.vision_transformer.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=48, depth=3, num_heads=3, num_classes=10
    )
    return model


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet20": (lambda: create("resnet20"), 32),
    "vgg16_bn": (lambda: create("vgg16_bn"), 32),
    "googlenet": (lambda: create("googlenet"), 32),
    "torchvision resnet18": (lambda: torchvision.models.resnet18(num_classes=10), 64),
    "timm vit": (vision_transformer, 32),
}


@pytest.mark.parametrize(("make", "side"), NETWORKS.values(), ids=NETWORKS)
def test_the_compact_network_is_the_projected_one(make: Callable[[], nn.Module], side: int) -> None:
    torch.manual_seed(0)
    x = images(4, 3, side, side)
    model = realistic_(make(), x)
    plan = lrpet.plan(model, x[:1], macs=0.45)
    with torch.no_grad():
        dense = model(x)
    lrpet.Projector(model, plan, start=0, every=1).step()
    compact = lrpet.factorize(model, plan)

    with torch.no_grad():
        expected = model(x)
        assert (compact(x) - expected).abs().max() < 1e-4 * expected.abs().max()
        assert (dense - expected).abs().max() > 1e-2 * expected.abs().max()  # the projection did something
    assert matrix_params(compact) == plan.layer_params
    assert matrix_macs(compact, x[:1]) == plan.layer_macs
    assert matrix_params(model) == plan.layer_params_dense
    assert sum(parameter.numel() for parameter in compact.parameters()) == plan.params
    for name, rank in plan.ranks.items():
        pair = compact.get_submodule(name)
        assert isinstance(pair, FactorPair)
        assert [type(factor) in (nn.Conv2d, nn.Linear) for factor in pair] == [True, True]
        first, second = (parameter for name, parameter in pair.named_parameters() if name.endswith("weight"))
        assert first.shape[0] == second.shape[1] == rank


class Convolutional(nn.Module):
    """A block that is used twice, one that is reached by two names, and a list that is no ModuleList."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.twice = nn.Conv2d(8, 8, 3, padding=1)
        self.alias = self.twice
        self.hidden_reference = [self.stem]
        self.classifier = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.hidden_reference[0](x)).relu()
        x = self.alias(self.twice(x).relu()).relu()
        return self.classifier(x.mean((2, 3)))  # type: ignore[no-any-return]


EXAMPLE = images(2, 3, 6, 6)


@pytest.fixture
def model() -> Convolutional:
    torch.manual_seed(0)
    return Convolutional()


def test_a_module_used_twice_stays_one(model: Convolutional) -> None:
    plan = lrpet.plan(model, EXAMPLE, keep=0.25)
    assert plan.ranks == {"stem": 2, "twice": 2}
    lrpet.Projector(model, plan, start=0, every=1).step()
    compact = lrpet.factorize(model, plan)
    assert isinstance(compact, Convolutional)
    assert compact.alias is compact.twice
    assert compact.hidden_reference[0] is compact.stem
    assert isinstance(compact.stem, nn.Sequential)
    assert matrix_params(compact) == plan.layer_params
    assert matrix_macs(compact, EXAMPLE) == plan.layer_macs
    torch.testing.assert_close(compact.eval()(EXAMPLE), model.eval()(EXAMPLE))


def test_the_argument_is_untouched(model: Convolutional) -> None:
    model.train()
    model.norm.eval()
    model(EXAMPLE).sum().backward()
    plan = lrpet.plan(model, EXAMPLE, keep=0.25)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modules = {name: (id(module), module.training) for name, module in model.named_modules()}
    compact = lrpet.factorize(model, plan)
    with torch.no_grad():
        for parameter in compact.parameters():
            parameter.fill_(7)
        compact.get_submodule("norm").running_mean.fill_(7)  # type: ignore[operator]
    assert {name: (id(module), module.training) for name, module in model.named_modules()} == modules
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not hasattr(model, "lrpet_plan")
    assert compact.training
    assert not compact.get_submodule("norm").training
    assert [module.training for module in compact.get_submodule("stem").modules()] == [True] * 3


def test_the_compact_network_carries_its_plan_and_can_be_copied(model: Convolutional) -> None:
    plan = lrpet.plan(model, EXAMPLE, keep=0.25)
    compact = lrpet.factorize(model, plan)
    duplicate = copy.deepcopy(compact)
    assert compact.lrpet_plan == plan
    assert duplicate.lrpet_plan == plan
    assert torch.equal(duplicate.eval()(EXAMPLE), compact.eval()(EXAMPLE))
    with torch.no_grad():
        next(duplicate.parameters()).zero_()
    assert not torch.equal(duplicate(EXAMPLE), compact(EXAMPLE))


def test_the_compact_network_trains(model: Convolutional) -> None:
    compact = lrpet.factorize(model, lrpet.plan(model, EXAMPLE, keep=0.25)).train()
    optimizer = torch.optim.SGD(compact.parameters(), lr=0.01)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = compact(EXAMPLE).square().mean()
        loss.backward()
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in compact.get_submodule("stem").parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_the_root_itself_may_be_the_layer() -> None:
    layer = nn.Conv2d(3, 8, 3)
    plan = lrpet.plan(layer, EXAMPLE, ranks={"": 3})
    compact = lrpet.factorize(layer, plan)
    assert isinstance(compact, nn.Sequential)
    assert matrix_params(compact) == plan.params == 3 * (27 + 8) + 8


def test_a_compact_network_can_be_scripted() -> None:
    torch.manual_seed(0)
    model, x = realistic_(create("resnet8"), images(2, 3, 32, 32)), images(2, 3, 32, 32)
    with warnings.catch_warnings(action="ignore"):
        compact = lrpet.factorize(model, lrpet.plan(model, x, keep=0.4))
        scripted = torch.jit.script(compact)
    torch.testing.assert_close(scripted(x), compact(x))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage")
def test_a_transformer_encoder_keeps_working() -> None:
    """Its fused path in eval mode reads linear1.weight, which a compact layer no longer has."""
    torch.manual_seed(0)
    x, padding = images(2, 5, 16), torch.tensor([[False] * 5, [False, False, False, True, True]])
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()
    plan = lrpet.plan(model, x, keep=0.25, include=lambda module, name: True)
    assert list(plan.ranks) == [
        f"layers.{i}.{name}" for i in (0, 1) for name in ("self_attn", "self_attn.out_proj", "linear1", "linear2")
    ]
    lrpet.Projector(model, plan, start=0, every=1).step()
    compact = lrpet.factorize(model, plan)
    with torch.no_grad():
        torch.testing.assert_close(compact(x), model(x), rtol=1e-4, atol=1e-4)
        expected = model(x, src_key_padding_mask=padding)
        got = compact(x, src_key_padding_mask=padding)
        torch.testing.assert_close(got[~padding], expected[~padding], rtol=1e-4, atol=1e-4)
    untouched = lrpet.factorize(model, lrpet.plan(model, x, ranks={}))
    assert untouched.use_nested_tensor == model.use_nested_tensor is True
    assert untouched.get_submodule("layers.0").activation_relu_or_gelu == 1


def test_dead_layers_warn_and_are_kept(model: Convolutional) -> None:
    nn.init.zeros_(model.norm.weight)
    nn.init.zeros_(model.twice.weight)
    plan = lrpet.plan(model, EXAMPLE, keep=0.25)
    with pytest.warns(UserWarning, match=r"dead layers \(largest singular value below 1e-4\), kept: stem, twice"):
        compact = lrpet.factorize(model, plan)
    assert isinstance(compact.get_submodule("stem"), nn.Sequential)
    assert isinstance(compact.get_submodule("twice"), nn.Sequential)
    assert matrix_params(compact) == plan.layer_params
    torch.testing.assert_close(compact.eval()(EXAMPLE), model.eval()(EXAMPLE))


def test_a_living_projected_network_does_not_warn(model: Convolutional) -> None:
    plan = lrpet.plan(model, EXAMPLE, keep=0.25)
    with pytest.warns(UserWarning, match=r"cuts energy off the weights of 2 layers, most off \w+ \(\d+\.\d%\)"):
        lrpet.factorize(model, plan)
    lrpet.Projector(model, plan, start=0, every=1).project()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lrpet.factorize(model, plan)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("tensor", ["twice.weight", "norm.weight"])
def test_a_diverged_network_is_refused(model: Convolutional, tensor: str, bad: float) -> None:
    plan = lrpet.plan(model, EXAMPLE, keep=0.25)
    model.state_dict()[tensor].flatten()[3] = bad
    with pytest.raises(ValueError, match=f"NaN or Inf, or a negative variance, in {tensor}"):
        lrpet.factorize(model, plan)


def test_another_networks_plan_is_refused(model: Convolutional) -> None:
    plan = lrpet.plan(model, EXAMPLE, keep=0.25)
    with pytest.raises(ValueError, match="'stem', which this Linear does not have"):
        lrpet.factorize(nn.Linear(3, 3), plan)
    with pytest.raises(ValueError, match="'stem', but in this model FactorPair is not supported"):
        lrpet.factorize(lrpet.factorize(model, plan), plan)


def test_an_svd_that_does_not_converge_is_done_in_float64(
    model: Convolutional, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = lrpet.plan(model, EXAMPLE, keep=0.25)
    lrpet.Projector(model, plan, start=0, every=1).project()
    expected = lrpet.factorize(model, plan).eval()(EXAMPLE)
    svd = torch.linalg.svd

    def failing(matrices: Tensor, **options: Any) -> Any:
        if matrices.dtype == torch.float32:
            raise torch.linalg.LinAlgError("did not converge")  # type: ignore[attr-defined]
        return svd(matrices, **options)

    monkeypatch.setattr("torch.linalg.svd", failing)
    torch.testing.assert_close(lrpet.factorize(model, plan).eval()(EXAMPLE), expected, rtol=1e-4, atol=1e-5)
