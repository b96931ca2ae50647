"""The observed forward pass: which batch norm each layer feeds, what is counted, and that the model is left as found."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import timm
import torch
import torchvision
from helpers import images
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from lrpet.layers.kinds import layer_of as matrix_layer
from lrpet.layers.observe import Observed, observe
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


# ── what is counted ──────────────────────────────────────────────────────────────────────────────────────────────────


def layer_of(model: nn.Module, example: Any, name: str = "0") -> Observed:
    (layer,) = [layer for layer in observe(model, example).layers if layer.name == name]
    return layer


@pytest.mark.parametrize(
    ("module", "shape", "positions", "macs"),
    [
        (nn.Conv2d(3, 8, 3, stride=2, padding=1), (2, 3, 8, 8), 2 * 16, 2 * 16 * 8 * 27),
        (nn.Conv2d(4, 8, 3, groups=2), (1, 4, 6, 6), 16, 16 * 8 * 2 * 9),
        (nn.Conv1d(3, 8, 3), (1, 3, 10), 8, 8 * 8 * 9),
        (nn.Conv3d(1, 2, 2), (1, 1, 3, 3, 3), 8, 8 * 2 * 8),
        (nn.ConvTranspose2d(3, 8, 2, stride=2), (1, 3, 4, 4), 16, 16 * 3 * 8 * 4),
        (nn.Linear(5, 7), (2, 9, 5), 18, 18 * 35),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_costs(module: nn.Module, shape: tuple[int, ...], positions: int, macs: int) -> None:
    layer = layer_of(nn.Sequential(module), images(*shape))
    assert (layer.calls, layer.positions(), layer.macs) == (1, positions, macs)
    assert layer.params == sum(parameter.numel() for parameter in module.parameters())
    found = matrix_layer(module)
    assert found is not None
    matrix = found.shape
    assert matrix.rows * matrix.columns == next(module.parameters()).numel()


class Repeated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.late = nn.Linear(4, 2)
        self.block = nn.Linear(4, 4)
        self.up = nn.ConvTranspose1d(1, 1, 2, stride=2)
        self.never = nn.Linear(4, 4)
        self.alias = self.block

    def forward(self, x: Tensor) -> Tensor:
        x = self.alias(self.block(self.block(x)))
        up: Tensor = self.up(input=x[:, None])
        return F.relu(self.late(x)) + up[:, 0, :2]


def test_repeated_calls_count_and_the_order_is_that_of_use() -> None:
    layers = observe(Repeated(), images(1, 4)).layers
    assert [(layer.name, layer.calls, layer.positions(), layer.macs) for layer in layers] == [
        ("block", 3, 3, 48),
        ("up", 1, 4, 8),
        ("late", 1, 1, 8),
        ("never", 0, 0, 0),
    ]


def signature(model: nn.Module, example: Any) -> list[tuple[str, int, tuple[Any, ...], int]]:
    return [(layer.name, layer.calls, layer.shapes[:0], layer.macs) for layer in observe(model, example).layers]


def test_batches_and_ways_of_passing_inputs() -> None:
    model = Repeated()
    one = signature(model, images(1, 4))
    for example in ((images(1, 4),), {"x": images(1, 4)}):
        assert signature(model, example) == one
    assert [macs for *_, macs in signature(model, images(3, 4))] == [3 * macs for *_, macs in one]


# ── as found ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Stateful(nn.Module):
    """Counts its calls in buffers, in place and by rebinding, draws random numbers, and fails when told to."""

    calls_in_place: Tensor
    calls_rebound: Tensor
    missing: Tensor | None

    def __init__(self, *, fails: bool) -> None:
        super().__init__()
        self.fails = fails
        self.first = nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(4)
        self.frozen = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
        self.spectral = parametrizations.spectral_norm(nn.Conv2d(4, 4, 3))
        self.register_buffer("calls_in_place", torch.zeros((), dtype=torch.long))
        self.register_buffer("calls_rebound", torch.tensor([0.0, float("nan")]))
        self.register_buffer("missing", None)

    def forward(self, x: Tensor) -> Tensor:
        self.calls_in_place += 1
        self.calls_rebound = self.calls_rebound + 1
        self.missing = torch.ones(3)
        self.register_buffer("late", torch.ones(3))
        x = self.norm(self.first(x + torch.randn_like(x)))
        self.frozen.train()
        x = self.frozen(x)
        if self.fails:
            raise RuntimeError("failed on purpose")
        return self.spectral(x)  # type: ignore[no-any-return]


def hooks(model: nn.Module) -> list[list[int]]:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_backward_hooks")
    return [list(getattr(module, kind)) for module in model.modules() for kind in kinds]


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_found(fails: bool) -> None:
    torch.manual_seed(0)
    model = Stateful(fails=fails).train()
    model.frozen.eval()
    model.norm.eval()
    model.frozen[0].requires_grad_(False)
    model.first.register_forward_hook(lambda module, args, output: None)
    modes = {name: module.training for name, module in model.named_modules()}
    buffers = dict(model.named_buffers())
    values = {name: buffer.clone() for name, buffer in buffers.items()}
    parameters = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    before_hooks, state = hooks(model), torch.get_rng_state()

    example = images(2, 3, 5, 5)
    if fails:
        with pytest.raises(RuntimeError, match="failed on purpose"):
            observe(model, example)
    else:
        assert len(observe(model, example).layers) == 4

    assert {name: module.training for name, module in model.named_modules()} == modes
    assert hooks(model) == before_hooks
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled()
    after = dict(model.named_buffers())
    assert after.keys() == buffers.keys()
    assert model.missing is None
    for name, buffer in after.items():
        assert buffer is buffers[name], name
        assert torch.allclose(buffer, values[name], rtol=0, atol=0, equal_nan=True), name
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, parameters[name]), name
        assert parameter.grad is None


def test_it_watches_in_eval_mode_without_gradients() -> None:
    seen: list[tuple[bool, bool]] = []

    class Looks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append((self.training, torch.is_grad_enabled()))
            return x

    observe(nn.Sequential(Looks(), nn.Linear(2, 2)).train(), images(1, 2))
    assert seen == [(False, False)]


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


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
@pytest.mark.parametrize(
    "make", [lambda: nn.LazyConv2d(4, 3), lambda: nn.LazyLinear(4), lambda: nn.LazyBatchNorm2d(affine=False)]
)
def test_lazy_modules_are_refused(make: Callable[[], nn.Module]) -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), make())
    with pytest.raises(ValueError, match=r"'1\.\w+' is lazy and has no shape yet: run the model once"):
        observe(model, images(1, 3, 8, 8))


def test_meta_models_are_refused() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1, device="meta"))
    with pytest.raises(ValueError, match=r"'1\.weight' is on the meta device: materialise"):
        observe(model, images(1, 3, 8, 8))
    with pytest.raises(ValueError, match=r"'0\.running_mean' is on the meta device"):
        observe(nn.Sequential(nn.BatchNorm2d(3, affine=False, device="meta")), images(1, 3, 8, 8))


def test_several_threads_plan_one_network() -> None:
    """Each sees its own pass alone, and the network is left as it was found."""

    class Slow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(*[nn.Linear(8, 8) for _ in range(6)]).train()

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = layer(x)
                time.sleep(0.001)  # another thread goes on
            return x

    model = Slow()

    def seen(_: int) -> list[Any]:
        return [(each.name, each.calls, each.shapes, each.used_elsewhere) for each in observe(model, x).layers]

    x = torch.ones(1, 8)
    alone = seen(0)
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(seen, range(16)))
    assert together == [alone] * 16
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
