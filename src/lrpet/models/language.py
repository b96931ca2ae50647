"""Language models of transformers, by the name of their architecture or by a folder."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn


def language_network(
    name: str, *, vocabulary: int | None = None, pretrained: bool = False, more: Mapping[str, Any] | None = None
) -> nn.Module:
    """Make a causal language model.

    Args:
        name: An architecture of transformers, such as "gpt2" or "llama"; or a folder, or with `pretrained` a repository on the
            hub, with a config.json.
        vocabulary: How many tokens there are; None for what the config says.
        pretrained: Load the weights that the folder or repository holds.
        more: More values for the config, such as {"num_hidden_layers": 4}.

    Raises:
        ValueError: the name is unknown, or the config does not take these values.
        ImportError: transformers is not installed.
    """
    try:
        from transformers import AutoConfig, AutoModelForCausalLM
    except ImportError as error:
        message = "models called hf:NAME need transformers: pip install 'lrpet[huggingface]'"
        raise ImportError(message, name="transformers") from error
    values = dict(more or {}) | ({} if vocabulary is None else {"vocab_size": vocabulary})
    auto: Any = AutoModelForCausalLM
    try:
        if pretrained:
            model: nn.Module = auto.from_pretrained(name, **(more or {}))
            return model
        if (Path(name) / "config.json").is_file():
            config = AutoConfig.from_pretrained(name, **values)
        else:
            config = AutoConfig.for_model(_architecture(name), **values)
        network: nn.Module = auto.from_config(config)
    except (TypeError, OSError, ValueError) as error:
        said = str(error).strip().partition("\n")[0]
        raise ValueError(f"hf:{name} makes no language model with {values or 'its own config'}: {said}") from None
    return network


def _architecture(name: str) -> str:
    """Return the name of an architecture. Raises ValueError that names near ones if there is none."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as KNOWN

    if name not in KNOWN:
        near = " or ".join(f"hf:{match}" for match in difflib.get_close_matches(name, KNOWN))
        hint = f" Did you mean {near}?" if near else " gpt2 and llama are two."
        raise ValueError(f"it is neither an architecture of transformers nor a folder with a config.json.{hint}")
    return name
