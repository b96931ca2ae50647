"""The transformers models of `benchmarks.coverage`: their classes, small configs, and inputs."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import nn

_TEXT = {
    "vocab_size": 99,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}
_GPT = {"vocab_size": 99, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64}
_T5 = {"vocab_size": 99, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4}
_SEQ2SEQ = {
    "vocab_size": 99,
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "pad_token_id": 0,
    "decoder_start_token_id": 1,
}
_IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_LLM = {**_TEXT, **_IDS, "num_key_value_heads": 2, "head_dim": 16}
_IMAGE = {k: v for k, v in _TEXT.items() if k != "vocab_size"} | {"image_size": 32, "patch_size": 8}
_SPEECH = _TEXT | {"conv_dim": (32, 32), "conv_kernel": (10, 3), "conv_stride": (5, 2)}
_SPEECH |= {"num_feat_extract_layers": 2, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}

#: family: (class, settings of its config, kind of input)
TRANSFORMERS: dict[str, tuple[str, dict[str, Any], str]] = {
    "albert": ("AlbertForSequenceClassification", {**_TEXT, "embedding_size": 32}, "text"),
    "bert": ("BertForSequenceClassification", _TEXT, "text"),
    "bert mlm": ("BertForMaskedLM", _TEXT, "text"),
    "deberta v2": ("DebertaV2ForSequenceClassification", {**_TEXT, "relative_attention": True}, "text"),
    "distilbert": (
        "DistilBertForSequenceClassification",
        {"vocab_size": 99, "dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128},
        "text",
    ),
    "electra": ("ElectraForSequenceClassification", {**_TEXT, "embedding_size": 32}, "text"),
    "modernbert": (
        "ModernBertForSequenceClassification",
        {**_TEXT, **_IDS, "cls_token_id": 1, "sep_token_id": 2},
        "text",
    ),
    "mpnet": ("MPNetForSequenceClassification", _TEXT, "text"),
    "roberta": ("RobertaForSequenceClassification", _TEXT, "text"),
    "bloom": ("BloomForCausalLM", {"vocab_size": 99, "hidden_size": 64, "n_layer": 2, "n_head": 4}, "text"),
    "falcon": ("FalconForCausalLM", {**_TEXT, "new_decoder_architecture": False}, "text"),
    "gemma": ("GemmaForCausalLM", _LLM, "text"),
    "gemma 2": ("Gemma2ForCausalLM", _LLM, "text"),
    "gpt2": ("GPT2LMHeadModel", _GPT, "text"),
    "gpt neo": (
        "GPTNeoForCausalLM",
        {
            "vocab_size": 99,
            "hidden_size": 64,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "max_position_embeddings": 64,
        },
        "text",
    ),
    "gpt neox": ("GPTNeoXForCausalLM", _TEXT, "text"),
    "gptj": ("GPTJForCausalLM", {**_GPT, "rotary_dim": 8}, "text"),
    "llama": ("LlamaForCausalLM", _LLM, "text"),
    "mamba": (
        "MambaForCausalLM",
        {"vocab_size": 99, "hidden_size": 64, "num_hidden_layers": 2, "state_size": 8},
        "text",
    ),
    "mistral": ("MistralForCausalLM", _LLM, "text"),
    "mixtral": ("MixtralForCausalLM", {**_LLM, "num_local_experts": 4}, "text"),
    "olmo": ("OlmoForCausalLM", _LLM, "text"),
    "opt": (
        "OPTForCausalLM",
        {"vocab_size": 99, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 128}
        | {"word_embed_proj_dim": 64},
        "text",
    ),
    "phi": ("PhiForCausalLM", _TEXT, "text"),
    "phi 3": ("Phi3ForCausalLM", {**_TEXT, **_IDS, "num_key_value_heads": 2}, "text"),
    "qwen 2": ("Qwen2ForCausalLM", _LLM, "text"),
    "qwen 3": ("Qwen3ForCausalLM", _LLM, "text"),
    "stablelm": ("StableLmForCausalLM", {**_TEXT, "num_key_value_heads": 4}, "text"),
    "xglm": (
        "XGLMForCausalLM",
        {"vocab_size": 99, "d_model": 64, "num_layers": 2, "attention_heads": 4, "ffn_dim": 128},
        "text",
    ),
    "bart": ("BartForConditionalGeneration", _SEQ2SEQ, "text to text"),
    "marian": ("MarianMTModel", _SEQ2SEQ, "text to text"),
    "mbart": ("MBartForConditionalGeneration", _SEQ2SEQ, "text to text"),
    "mt5": ("MT5ForConditionalGeneration", _T5, "text to text"),
    "pegasus": ("PegasusForConditionalGeneration", _SEQ2SEQ, "text to text"),
    "t5": ("T5ForConditionalGeneration", _T5, "text to text"),
    "beit": ("BeitForImageClassification", _IMAGE, "image"),
    "convnext": ("ConvNextForImageClassification", {"hidden_sizes": [16, 32, 64, 64], "depths": [1, 1, 1, 1]}, "image"),
    "convnext v2": (
        "ConvNextV2ForImageClassification",
        {"hidden_sizes": [16, 32, 64, 64], "depths": [1, 1, 1, 1]},
        "image",
    ),
    "deit": ("DeiTForImageClassification", _IMAGE, "image"),
    "dinov2": ("Dinov2ForImageClassification", _IMAGE, "image"),
    "mobilenet v2": ("MobileNetV2ForImageClassification", {"image_size": 32}, "image"),
    "mobilevit": (
        "MobileViTForImageClassification",
        {
            "image_size": 64,
            "initializer_range": 0.5,
            "hidden_sizes": [32, 48, 64],
            "neck_hidden_sizes": [16, 32, 32, 48, 64, 64, 96],
        },
        "image 64",
    ),
    "poolformer": (
        "PoolFormerForImageClassification",
        {"hidden_sizes": [16, 32, 64, 64], "depths": [1, 1, 1, 1]},
        "image 64",
    ),
    "pvt": ("PvtV2ForImageClassification", {}, "image 64"),
    "regnet": (
        "RegNetForImageClassification",
        {"embedding_size": 16, "hidden_sizes": [16, 32, 64, 64], "depths": [1, 1, 1, 1], "groups_width": 8},
        "image",
    ),
    "resnet": (
        "ResNetForImageClassification",
        {"embedding_size": 16, "hidden_sizes": [16, 32, 64, 64], "depths": [1, 1, 1, 1]},
        "image",
    ),
    "segformer": (
        "SegformerForSemanticSegmentation",
        {"hidden_sizes": [16, 32, 64, 64], "depths": [1, 1, 1, 1]},
        "image 64",
    ),
    "swin": (
        "SwinForImageClassification",
        {"image_size": 64, "embed_dim": 32, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
        "image 64",
    ),
    "swin v2": (
        "Swinv2ForImageClassification",
        {"image_size": 64, "patch_size": 4, "embed_dim": 48, "window_size": 4},
        "image 64",
    ),
    "vit": ("ViTForImageClassification", _IMAGE, "image"),
    "vit mae": ("ViTMAEModel", {**_IMAGE, "mask_ratio": 0.0}, "image"),
    "yolos": ("YolosForObjectDetection", {**_IMAGE, "image_size": [32, 32], "num_detection_tokens": 4}, "image"),
    "clip": ("CLIPVisionModelWithProjection", {**_IMAGE, "projection_dim": 32}, "image"),
    "siglip": ("SiglipVisionModel", _IMAGE, "image"),
    "hubert": ("HubertForSequenceClassification", _SPEECH, "speech"),
    "wav2vec 2": ("Wav2Vec2ForSequenceClassification", _SPEECH, "speech"),
    "wavlm": ("WavLMForSequenceClassification", _SPEECH, "speech"),
    "whisper": (
        "WhisperForConditionalGeneration",
        {**_SEQ2SEQ, **_IDS, "num_mel_bins": 16, "max_source_positions": 30, "max_target_positions": 20},
        "spectrogram to text",
    ),
    "speech to text": (
        "Speech2TextForConditionalGeneration",
        {**_SEQ2SEQ, **_IDS, "input_feat_per_channel": 16, "max_source_positions": 60, "conv_channels": 32},
        "frames to text",
    ),
    "audio spectrogram": (
        "ASTForAudioClassification",
        {k: v for k, v in _TEXT.items() if k != "vocab_size"} | {"max_length": 64, "num_mel_bins": 16, "patch_size": 8},
        "frames",
    ),
}


def made(kind: str, settings: dict[str, Any], taken: str) -> tuple[nn.Module, Any]:
    """Make a model of a class, and the inputs that it takes."""
    model_class = getattr(transformers, kind)
    model = model_class(model_class.config_class(**settings))
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(3, 99, (1, 12), generator=generator)
    inputs: dict[str, dict[str, Any]] = {
        "text": {"input_ids": tokens},
        "text to text": {"input_ids": tokens, "decoder_input_ids": tokens[:, :5]},
        "image": {"pixel_values": torch.randn(1, 3, 32, 32, generator=generator)},
        "image 64": {"pixel_values": torch.randn(1, 3, 64, 64, generator=generator)},
        "speech": {"input_values": torch.randn(1, 2000, generator=generator)},
        "spectrogram to text": {
            "input_features": torch.randn(1, 16, 60, generator=generator),
            "decoder_input_ids": tokens[:, :5],
        },
        "frames to text": {
            "input_features": torch.randn(1, 60, 16, generator=generator),
            "decoder_input_ids": tokens[:, :5],
        },
        "frames": {"input_values": torch.randn(1, 64, 16, generator=generator)},
    }
    return model, inputs[taken]
