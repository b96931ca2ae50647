"""What a plan says of the embeddings and heads of language models."""

from __future__ import annotations

import pytest

import lrpet
import tiny_transformers as tiny


@pytest.mark.parametrize(
    ("name", "head", "embedding"),
    [
        ("gpt2", "lm_head", "transformer.wte"),
        ("qwen3", "lm_head", "model.embed_tokens"),
        ("bert", "cls.predictions.decoder", "bert.embeddings.word_embeddings"),
    ],
)
def test_a_tied_head_and_its_embedding_name_each_other(name: str, head: str, embedding: str) -> None:
    plan = lrpet.plan(tiny.dense(name), tiny.MODELS[name].inputs, keep=0.25)
    said = {layer.name: layer.reason for layer in plan.layers}
    assert said[head] == f"not included: the classifier, the last layer to run, and tied to {embedding}"
    assert said[embedding] == (
        "an embedding, whose rows are looked up and not multiplied; "
        f"its parameters are counted with {head}, which it is tied to"
    )
    with pytest.raises(
        ValueError,
        match=rf"include names '{head}', which matches nothing that can be factorised: {head} "
        rf"\(shares its weight with {embedding}: an embedding, whose rows are looked up and not multiplied\)",
    ):
        lrpet.plan(tiny.dense(name), tiny.MODELS[name].inputs, keep=0.25, include=head)


def test_a_head_of_its_own_is_factorised_by_name() -> None:
    model, inputs = tiny.dense("llama"), tiny.MODELS["llama"].inputs
    assert lrpet.plan(model, inputs, keep=0.25, include=["lm_head", "*.mlp.*"]).ranks["lm_head"] == 8
    table = str(lrpet.plan(model, inputs, keep=0.25))
    assert (
        "not included: the classifier, the last layer to run (7% of the parameters, 8% of the multiply-adds)" in table
    )
    assert "an embedding, whose rows are looked up and not multiplied (7% of the parameters)" in table
    with pytest.raises(ValueError, match=r"model.embed_tokens \(an embedding, whose rows are looked up"):
        lrpet.plan(model, inputs, keep=0.25, include="*embed*")
