"""Totals are the whole network's: every parameter, every matrix product."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import transformers
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import lrpet
from helpers import images


def bert() -> tuple[nn.Module, Any]:
    config = transformers.BertConfig(
        vocab_size=500, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    return transformers.BertForSequenceClassification(config), {"input_ids": torch.arange(12)[None]}


def vit() -> tuple[nn.Module, Any]:
    options: dict[str, Any] = {
        "img_size": 32,
        "patch_size": 8,
        "embed_dim": 48,
        "depth": 2,
        "num_heads": 3,
        "num_classes": 10,
    }
    return timm.models.vision_transformer.VisionTransformer(**options), images(1, 3, 32, 32)


def transformer() -> tuple[nn.Module, Any]:
    return nn.Transformer(16, 2, 1, 1, 32, batch_first=True), (images(1, 5, 16), images(1, 4, 16))


def convolutional() -> tuple[nn.Module, Any]:
    layers = [
        nn.Conv2d(3, 16, 3),
        nn.BatchNorm2d(16),
        nn.ConvTranspose2d(16, 16, 3, groups=2),
        nn.Flatten(),
        nn.Linear(1024, 4),
    ]
    return nn.Sequential(*layers), images(1, 3, 8, 8)


def counted_by_torch(model: nn.Module, inputs: Any) -> int:
    """Multiply-adds by torch's own counter, attention as the two products that it is."""
    model.eval()  # with gradients: without them nn.Transformer takes fused kernels, which the counter does not know
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        if isinstance(inputs, dict):
            model(**inputs)
        else:
            model(*inputs) if isinstance(inputs, tuple) else model(inputs)
    return int(counter.get_total_flops()) // 2


@pytest.mark.parametrize("make", [bert, vit, transformer, convolutional])
def test_totals_are_those_of_the_whole_network(make: Callable[[], tuple[nn.Module, Any]]) -> None:
    torch.manual_seed(0)
    model, inputs = make()
    plan = lrpet.plan(model, inputs, keep=0.25)
    assert plan.macs_dense == counted_by_torch(model, inputs)
    assert plan.params_dense == sum(parameter.numel() for parameter in model.parameters())
    lrpet.Projector(model, plan, start=0, every=1).project()
    compact = lrpet.factorize(model, plan)
    assert plan.macs == counted_by_torch(compact, inputs) < plan.macs_dense
    assert plan.params == sum(parameter.numel() for parameter in compact.parameters()) < plan.params_dense
    assert plan.layer_macs_dense <= plan.macs_dense
    assert plan.layer_params_dense < plan.params_dense


def test_attention_and_embeddings_are_in_the_totals_only() -> None:
    model, inputs = bert()
    plan = lrpet.plan(model, inputs, keep=0.25)
    tokens, heads, width, layers = 12, 2, 16, 2
    assert plan.macs_dense - plan.layer_macs_dense == layers * 2 * heads * tokens * tokens * width
    embedding = next(layer for layer in plan.layers if layer.name.endswith("word_embeddings"))
    assert (embedding.counted, embedding.params_dense, embedding.macs_dense) == (False, 500 * 32, 0)
    assert "convolutions and linears alone" in plan.summary()


def test_a_budget_that_dense_parts_make_impossible_names_them() -> None:
    model, inputs = bert()
    with pytest.raises(
        ValueError, match=r"cannot be met.*Parts that stay dense, and their share of the parameters: "
    ) as error:
        lrpet.plan(model, inputs, params=0.4)
    assert "bert.embeddings.word_embeddings (an embedding, whose rows are looked up and not multiplied) (32 %)" in str(
        error.value
    )
    reached = lrpet.plan(model, inputs, params=0.9)
    assert 0.88 < reached.params / reached.params_dense <= 0.9


def test_nothing_is_factorised_for_nothing() -> None:
    torch.manual_seed(0)
    wide = [nn.Linear(256, 256, bias=False) for _ in range(4)]
    model = nn.Sequential(*wide, nn.Linear(256, 12, bias=False), nn.Linear(12, 2))
    x = images(1, 256)
    assert lrpet.plan(model, x, params=0.6, multiple_of=1).ranks["4"] == 3
    asked = lrpet.plan(model, x, params=0.6, min_saving=0.01, multiple_of=1)
    small = next(layer for layer in asked.layers if layer.name == "4")
    assert small.rank is None
    assert small.reason == "factors of rank 3 would save 2,268 parameters only"
    assert asked.params <= 0.6 * asked.params_dense
    saved = [layer.params_dense - layer.params for layer in asked.layers if layer.rank]
    assert len(saved) == 4
    assert min(saved) >= 0.01 * asked.params_dense
    assert "4" in lrpet.plan(model, x, keep=0.5, factorize_all=True).ranks
    with pytest.raises(ValueError, match="min_saving=1 must be a fraction"):
        lrpet.plan(model, x, params=0.6, min_saving=1)


def test_any_saving_is_enough_for_the_papers_keep() -> None:
    model = nn.Sequential(nn.Linear(2048, 2048), nn.Linear(2048, 8), nn.Linear(8, 2))
    x: Tensor = images(1, 2048)
    assert "1" in lrpet.plan(model, x, keep=0.9, include="1").ranks
    by_budget = lrpet.plan(model, x, macs=0.95, include=["0", "1"], overrides={"0": 900}, max_rank=7)
    (small,) = [layer for layer in by_budget.layers if layer.name == "1"]
    assert (small.rank, small.reason) == (None, "factors of rank 7 would save 1,992 multiply-adds only")
