"""No layer goes missing: what cannot be factorised stays dense, counts, and says why."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, weight_norm

import lrpet
from helpers import images, layer_of


class OwnForward(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1


class OwnConvForward(nn.Conv2d):
    def _conv_forward(self, *args: Any) -> Tensor:
        output: Tensor = super()._conv_forward(*args)
        return output + 1


class Unsupported(nn.Module):
    """One of each kind of layer that has a matrix but cannot be factorised, and one that can."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(4, 4))
        self.supported = nn.Conv2d(4, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.grouped = nn.Conv2d(8, 8, 3, groups=2)
        self.transposed = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.own_forward = OwnForward(6, 6, 1)
        self.own_conv_forward = OwnConvForward(6, 6, 1)
        self.patched = nn.Conv2d(6, 6, 1)
        self.patched.forward = self.patched.forward  # type: ignore[method-assign]
        self.parametrized = parametrizations.spectral_norm(nn.Conv2d(6, 6, 1))
        self.computed = weight_norm(nn.Conv2d(6, 6, 1))
        self.one_dimensional = nn.Conv1d(6, 6, 3, padding=1)
        self.embedding = nn.Embedding(5, 6)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.recurrent = nn.LSTM(6, 6, batch_first=True)
        self.bilinear = nn.Bilinear(6, 6, 6)
        self.tied = nn.Linear(6, 6)
        self.tied_too = nn.Linear(6, 6)
        self.tied_too.weight = self.tied.weight
        self.tied_to_table = nn.Linear(4, 4)
        self.tied_to_table.weight = self.table
        self.unused = nn.Linear(6, 6)
        self.empty = nn.Linear(6, 0)
        self.classifier = nn.Linear(6, 3)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        x = self.grouped(self.depthwise(self.supported(x)))
        x = self.computed(self.parametrized(self.patched(self.own_conv_forward(self.own_forward(self.transposed(x))))))
        x = self.one_dimensional(x.flatten(2)).transpose(1, 2) + self.embedding(tokens)
        x, _ = self.attention(x, x, x, need_weights=False)
        x, _ = self.recurrent(x)
        self.tied_to_table(x[..., :4])
        self.empty(x)
        return self.classifier(self.bilinear(self.tied(x), self.tied_too(x)))  # type: ignore[no-any-return]


def unsupported() -> tuple[Unsupported, tuple[Tensor, Tensor]]:
    return Unsupported(), (images(1, 4, 6, 6), torch.zeros(1, 16, dtype=torch.long))


@pytest.mark.filterwarnings("ignore:.*(weight_norm|Initializing zero-element).*")
def test_nothing_is_skipped_in_silence() -> None:
    model, inputs = unsupported()
    plan = lrpet.plan(model, inputs, keep=0.25)
    assert plan.ranks == {
        "supported": 2,
        "grouped": 1,
        "transposed": 2,
        "one_dimensional": 1,
        "attention": 1,
        "attention.out_proj": 1,
        "tied": 1,
        "tied_too": 1,
    }
    reasons = {layer.name: layer.reason for layer in plan.layers}
    assert reasons == {
        "": "Unsupported is not supported",
        "supported": "factorised",
        "depthwise": "depthwise: each group's matrix has rank 1 already",
        "grouped": "factorised",
        "transposed": "factorised",
        "own_forward": "OwnForward has a forward of its own",
        "own_conv_forward": "OwnConvForward has a forward of its own",
        "patched": "Conv2d has a forward of its own",
        "parametrized": "its weight is computed by a parametrization",
        "parametrized.parametrizations.weight": "ParametrizationList is not supported",
        "computed": "its weight is computed by a parametrization",
        "one_dimensional": "factorised",
        "embedding": "an embedding, whose rows are looked up and not multiplied",
        "attention": "factorised",
        "attention.out_proj": "factorised",
        "recurrent": "LSTM runs its weights in one fused kernel, which takes no factors",
        "bilinear": "Bilinear is not supported",
        "tied": "factorised",
        "tied_too": "factorised, sharing the weight of tied",
        "tied_to_table": "shares its weight with (root): Unsupported is not supported",
        "unused": "did not run in the observed forward pass",
        "empty": "its weight is empty",
        "classifier": "not included: the classifier, the last layer to run",
    }
    owners = {name.rpartition(".")[0] for name, p in model.named_parameters(remove_duplicate=False) if p.dim() >= 2}
    assert owners <= reasons.keys()


@pytest.mark.filterwarnings("ignore:.*(weight_norm|Initializing zero-element).*")
def test_layers_that_stay_dense_still_count() -> None:
    model, inputs = unsupported()
    plan = lrpet.plan(model, inputs, keep=0.25)
    patched = layer_of(plan, "patched")
    assert patched.macs == patched.macs_dense == 16 * 6 * 6
    factorised = [layer for layer in plan.layers if layer.rank is not None]
    saved = sum(layer.macs_dense - layer.macs for layer in factorised)
    assert plan.macs_dense - plan.macs == saved > 0
    dense = [layer for layer in plan.layers if layer.rank is None]
    assert all((layer.macs, layer.params) == (layer.macs_dense, layer.params_dense) for layer in dense)
    assert layer_of(plan, "parametrized").params == 36 + 6


@pytest.mark.filterwarnings("ignore:.*(weight_norm|Initializing zero-element).*")
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("depthwise", "depthwise"),
        ("embedding", "an embedding, whose rows are looked up and not multiplied"),
        ("tied_to_table", "shares its weight"),
        ("unused", "did not run"),
        ("parametrized", "parametrization"),
        ("own_forward", "a forward of its own"),
    ],
)
def test_a_rank_for_a_layer_that_cannot_be_factorised_is_refused(name: str, why: str) -> None:
    model, inputs = unsupported()
    with pytest.raises(ValueError, match=f"ranks names '{name}', which cannot be factorised: .*{why}"):
        lrpet.plan(model, inputs, ranks={name: 1})


def test_shared_weights_are_counted_once() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3))
    model[1].weight = model[0].weight
    plan = lrpet.plan(model, images(1, 8), keep=1.0)
    assert plan.params_dense == sum(parameter.numel() for parameter in model.parameters())
    assert plan.macs_dense == 8 * 8 + 8 * 8 + 8 * 3
