"""The observed forward pass: what is counted, what is refused, and that the model is left as found."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from helpers import images
from lrpet.layers.kinds import layer_of as matrix_layer
from lrpet.layers.observe import Observed, observe


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
