"""Small transformers models with random weights, one for each architecture that is tested, and inputs for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor, nn

import lrpet
from lrpet.layers.factors import FactorPair

TOKENS = {"input_ids": torch.arange(3, 11)[None]}
_DECODER = {"decoder_input_ids": torch.arange(3, 8)[None]}
_SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


class Tiny(NamedTuple):
    """How a model is made, what it takes, and which class of transformers' loads it."""

    model: Callable[[], Any]
    inputs: dict[str, Tensor]
    auto: Any


def _gpt2() -> Any:
    config = transformers.GPT2Config(
        vocab_size=50, n_embd=32, n_layer=2, n_head=2, n_positions=32, bos_token_id=1, eos_token_id=2
    )
    return transformers.GPT2LMHeadModel(config)


def _llama(**options: Any) -> Any:
    config = transformers.LlamaConfig(**_SIZES, num_key_value_heads=2, max_position_embeddings=32, **options)
    return transformers.LlamaForCausalLM(config)


def _qwen() -> Any:
    config = transformers.Qwen3Config(
        **_SIZES, num_key_value_heads=2, head_dim=16, max_position_embeddings=32, tie_word_embeddings=True
    )
    return transformers.Qwen3ForCausalLM(config)


def _bert() -> Any:
    return transformers.BertForMaskedLM(transformers.BertConfig(**_SIZES, max_position_embeddings=32))


def _t5() -> Any:
    config = transformers.T5Config(vocab_size=50, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    model = transformers.T5ForConditionalGeneration(config)
    model.generation_config.decoder_start_token_id = 0
    return model


def _vit() -> Any:
    sizes = {name: size for name, size in _SIZES.items() if name != "vocab_size"}
    return transformers.ViTForImageClassification(transformers.ViTConfig(**sizes, image_size=16, patch_size=4))


def _whisper() -> Any:
    config = transformers.WhisperConfig(
        vocab_size=50, num_mel_bins=8, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, max_source_positions=16,
        max_target_positions=32, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
        suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip
    return transformers.WhisperForConditionalGeneration(config)


_CAUSAL = transformers.AutoModelForCausalLM
MODELS = {
    "gpt2": Tiny(_gpt2, TOKENS, _CAUSAL),
    "llama": Tiny(_llama, TOKENS, _CAUSAL),
    "qwen3": Tiny(_qwen, TOKENS, _CAUSAL),
    "bert": Tiny(_bert, TOKENS, transformers.AutoModelForMaskedLM),
    "t5": Tiny(_t5, TOKENS | _DECODER, transformers.AutoModelForSeq2SeqLM),
    "vit": Tiny(
        _vit,
        {"pixel_values": torch.linspace(-1, 1, 768).view(1, 3, 16, 16)},
        transformers.AutoModelForImageClassification,
    ),
    "whisper": Tiny(
        _whisper,
        {"input_features": torch.linspace(-1, 1, 256).view(1, 8, 32)} | _DECODER,
        transformers.AutoModelForSpeechSeq2Seq,
    ),
}


def dense(name: str, **options: Any) -> Any:
    """Make a model, in eval mode, the same one every time."""
    torch.manual_seed(0)
    return MODELS[name].model(**options).eval()


def compacted(name: str, **options: Any) -> Any:
    """Make a model's compact form."""
    return lrpet.compress(dense(name, **options), MODELS[name].inputs, macs=0.7, multiple_of=1, min_saving=0.0)


@torch.no_grad()
def logits(model: Any, name: str) -> Tensor:
    """Return what a model gives for its inputs, from weights that are copied to where the allocator puts them.

    transformers maps files into memory, at addresses for which kernels may add in another order.
    """
    for parameter in model.parameters():
        if not parameter.is_meta:
            parameter.data = parameter.data.clone()
    found: Tensor = model(**MODELS[name].inputs).logits
    return found


def generated(model: Any, name: str, **options: Any) -> Tensor:
    """Return the tokens that a model generates greedily."""
    inputs = {key: value for key, value in MODELS[name].inputs.items() if key != "decoder_input_ids"}
    tokens: Tensor = model.generate(**inputs, max_new_tokens=6, do_sample=False, **options)
    return tokens


def sequences() -> list[dict[str, Tensor]]:
    """Make a training set of sixteen sequences."""
    tokens = torch.randint(0, 50, (16, 8), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": row, "labels": row} for row in tokens]


def pairs(model: nn.Module) -> list[str]:
    """Return the names of a model's factor pairs."""
    return [name for name, module in model.named_modules() if isinstance(module, FactorPair)]


def assert_equal(found: nn.Module, wanted: nn.Module) -> None:
    """Fail unless two models have equal tensors, in factor pairs of equal names."""
    assert pairs(found) == pairs(wanted) != []
    states = found.state_dict(), wanted.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
