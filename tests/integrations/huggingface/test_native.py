"""A compact transformers model is saved and loaded by transformers itself, and is an ordinary one afterwards."""

from __future__ import annotations

import copy
from pathlib import Path
from types import MethodType
from typing import Any

import peft
import pytest
import torch
import transformers
from accelerate.state import AcceleratorState
from safetensors import safe_open
from torch import nn

import lrpet
from old_torch import compiling_transformers
from tiny_transformers import MODELS, TOKENS, assert_equal, compacted, dense, generated, logits, pairs, sequences

CAUSAL = transformers.AutoModelForCausalLM


@pytest.mark.parametrize("name", MODELS)
def test_round_trips_are_exact(name: str, tmp_path: Path) -> None:
    compact = compacted(name)
    compact.save_pretrained(tmp_path)
    loaded, report = MODELS[name].auto.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    assert type(loaded) is type(compact)
    assert_equal(loaded, compact)
    assert torch.equal(logits(loaded, name), logits(compact, name))
    if loaded.can_generate():
        assert loaded.generation_config.use_cache
        assert torch.equal(generated(loaded, name), generated(compact, name))
        assert torch.equal(generated(loaded, name), generated(loaded, name, use_cache=False))
    loaded.save_pretrained(tmp_path / "again")
    assert_equal(MODELS[name].auto.from_pretrained(tmp_path / "again"), compact)


def test_attention_and_mlp_are_factorised_and_heads_stay_with_their_share() -> None:
    plan = lrpet.plan(dense("llama"), TOKENS, keep=0.3)
    layers = {layer.name: layer for layer in plan.layers}
    block = {name.rpartition(".")[2] for name in plan.ranks if name.startswith("model.layers.1.")}
    assert block == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert str(layers["model.layers.0.self_attn.k_proj"].shape) == "16×32"  # two of four heads
    assert layers["model.embed_tokens"].rank is layers["lm_head"].rank is None
    shares = {line.split()[0]: line.partition("(")[2] for line in str(plan).splitlines() if line.strip()}
    assert shares["model.embed_tokens"] == f"{1600 / plan.params_dense:.0%} of the parameters)"
    assert shares["lm_head"].startswith(f"{1600 / plan.params_dense:.0%} of the parameters, ")

    tied = {layer.name: layer for layer in lrpet.plan(dense("qwen3"), TOKENS, keep=0.3).layers}
    why = "an embedding, whose rows are looked up and not multiplied"
    assert tied["model.embed_tokens"].reason == f"{why}; its parameters are counted with lm_head, which it is tied to"
    assert (
        tied["lm_head"].reason == "not included: the classifier, the last layer to run, and tied to model.embed_tokens"
    )
    asked = lrpet.plan(dense("qwen3"), TOKENS, keep=0.3, include="*")
    assert asked.layers[-1].reason == f"shares its weight with model.embed_tokens: {why}"


def test_shards_dtypes_device_maps_and_memory(tmp_path: Path) -> None:
    compact = compacted("llama")
    compact.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert_equal(CAUSAL.from_pretrained(tmp_path, device_map="auto"), compact)
    half = CAUSAL.from_pretrained(tmp_path, dtype=torch.bfloat16, device_map={"": "cpu"})
    assert_equal(half, copy.deepcopy(compact).to(torch.bfloat16))
    half.save_pretrained(tmp_path / "half")
    assert CAUSAL.from_pretrained(tmp_path / "half").dtype == torch.bfloat16
    split = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.norm": "cpu", "lm_head": "cpu"}
    split |= {"model.layers.0": "cpu", "model.layers.1": "disk"}
    offloaded = CAUSAL.from_pretrained(tmp_path, device_map=split, offload_folder=tmp_path / "offload")
    assert torch.equal(logits(offloaded, "llama"), logits(compact, "llama"))


def test_tied_embeddings_stay_tied(tmp_path: Path) -> None:
    compact = compacted("llama", tie_word_embeddings=True)
    compact.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert "lm_head.weight" not in set(file.keys())
    loaded = CAUSAL.from_pretrained(tmp_path)
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    loaded.resize_token_embeddings(60)
    loaded.save_pretrained(tmp_path / "larger")
    assert_equal(CAUSAL.from_pretrained(tmp_path / "larger"), loaded)


def test_other_heads_take_the_body(tmp_path: Path) -> None:
    compact = compacted("gpt2")
    compact.save_pretrained(tmp_path)
    body = transformers.AutoModel.from_pretrained(tmp_path)
    assert_equal(body, compact.transformer)
    assert_equal(
        transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path).transformer, compact.transformer
    )
    body.save_pretrained(tmp_path / "body")
    assert_equal(CAUSAL.from_pretrained(tmp_path / "body"), compact)
    compact.transformer.save_pretrained(tmp_path / "part")
    assert_equal(transformers.AutoModel.from_pretrained(tmp_path / "part"), compact.transformer)
    assert compact.config.quantization_config.plan == compact.lrpet_plan
    with pytest.raises(ValueError, match="none of which this BertForMaskedLM has: load the class that was saved"):
        transformers.BertForMaskedLM.from_pretrained(tmp_path)


def test_the_encoder_of_a_model_stands_alone(tmp_path: Path) -> None:
    for name in ("t5", "whisper"):
        compact = compacted(name)
        encoder = compact.get_encoder()
        encoder.save_pretrained(tmp_path / name)
        assert_equal(type(encoder).from_pretrained(tmp_path / name), encoder)
    compact = compacted("t5")
    compact.save_pretrained(tmp_path / "whole")
    assert_equal(transformers.T5EncoderModel.from_pretrained(tmp_path / "whole").encoder, compact.encoder)


def test_a_model_inside_another_network_saves_itself(tmp_path: Path) -> None:
    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = dense("bert").bert
            self.head = nn.Linear(32, 8)

        def forward(self, input_ids: torch.Tensor) -> Any:
            return self.head(self.body(input_ids).last_hidden_state[:, 0])

    compact: Any = lrpet.compress(Classifier().eval(), TOKENS, macs=0.7, multiple_of=1)
    compact.body.save_pretrained(tmp_path)
    assert_equal(transformers.BertModel.from_pretrained(tmp_path, add_pooling_layer=False), compact.body)


@compiling_transformers
def test_a_loaded_model_compiles(tmp_path: Path) -> None:
    compact = compacted("llama")
    compact.save_pretrained(tmp_path)
    loaded = torch.compile(CAUSAL.from_pretrained(tmp_path), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(logits(loaded, "llama"), logits(compact, "llama"))


@pytest.mark.filterwarnings("ignore")
def test_the_trainer_trains_a_compact_model_on_and_its_checkpoints_load(tmp_path: Path) -> None:
    compacted("gpt2").save_pretrained(tmp_path / "start")
    model = CAUSAL.from_pretrained(tmp_path / "start")
    options: Any = {"report_to": [], "use_cpu": True, "disable_tqdm": True, "torch_compile": False}
    for resume in (False, True):
        arguments = transformers.TrainingArguments(
            str(tmp_path / "run"), max_steps=2 + 2 * resume, save_steps=2, **options
        )
        trainer = transformers.Trainer(model, arguments, train_dataset=sequences())
        trainer.train(resume_from_checkpoint=resume)
        AcceleratorState._reset_state(reset_partial_state=True)
    checkpoint = tmp_path / "run" / "checkpoint-4"
    assert (checkpoint / "generation_config.json").is_file()
    loaded = CAUSAL.from_pretrained(checkpoint)
    assert_equal(loaded, model)
    assert (loaded.config.use_cache, loaded.generation_config.use_cache) == (
        False,
        True,
    )  # the Trainer's, and generate's
    first = pairs(model)[0]
    before: Any = CAUSAL.from_pretrained(tmp_path / "start").get_submodule(first)
    after: Any = model.get_submodule(first)
    assert not torch.equal(after[0].weight, before[0].weight)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_lora_on_the_factors_is_merged_into_them(tmp_path: Path) -> None:
    compact = compacted("llama").eval()
    compact.save_pretrained(tmp_path / "compact")
    options = peft.LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(compact, options).eval()
    assert all(f"{pair}.{i}" in {*adapted.targeted_module_names} for pair in pairs(compacted("llama")) for i in (0, 1))
    wanted = logits(adapted, "llama")
    adapted.save_pretrained(str(tmp_path / "adapter"))
    over = peft.PeftModel.from_pretrained(CAUSAL.from_pretrained(tmp_path / "compact"), tmp_path / "adapter").eval()
    assert torch.equal(logits(over, "llama"), wanted)
    merged = over.merge_and_unload()
    torch.testing.assert_close(logits(merged, "llama"), wanted)
    merged.save_pretrained(tmp_path / "merged")
    assert torch.equal(logits(CAUSAL.from_pretrained(tmp_path / "merged"), "llama"), logits(merged, "llama"))


def test_a_forward_that_a_trainer_put_on_the_model_stays_behind() -> None:
    model = dense("gpt2")
    projector = lrpet.Projector(model, compacted("gpt2").lrpet_plan, start=0, every=1)
    projector.project()
    original = model.forward
    model.forward = MethodType(
        lambda self, **inputs: original(**inputs), model
    )  # as TRL's: it holds the full-size model
    compact: Any = lrpet.factorize(model, projector.plan)
    compressed = lrpet.compress(model, TOKENS, ranks=projector.plan.ranks)
    before = logits(model, "gpt2")
    with torch.no_grad():
        model.transformer.wte.weight.zero_()
    torch.testing.assert_close(logits(compact, "gpt2"), before)
    torch.testing.assert_close(logits(compressed, "gpt2"), before)


def test_copies_save_what_they_hold(tmp_path: Path) -> None:
    compact = compacted("gpt2")
    other = copy.deepcopy(compact)
    with torch.no_grad():
        other.get_submodule(pairs(other)[0])[0].weight.zero_()
    other.save_pretrained(tmp_path)
    assert_equal(CAUSAL.from_pretrained(tmp_path), other)
    lrpet.save(compact, tmp_path / "lrpet")
    again: Any = lrpet.load(tmp_path / "lrpet", dense("gpt2"))
    again.save_pretrained(tmp_path / "again")
    assert_equal(CAUSAL.from_pretrained(tmp_path / "again"), compact)
