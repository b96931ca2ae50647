"""Causal language models of transformers, by the name of their architecture or by a folder."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

#: Arguments by which transformers loads files or runs code from elsewhere.
FOREIGN = {
    "attn_implementation", "auto_map", "code_revision", "experts_implementation", "name_or_path", "quantization_config",
    "trust_remote_code",
}  # fmt: skip
#: What a config says of where it was, and not of the network.
_CIRCUMSTANCES = {"architectures", "dtype", "model_type", "torch_dtype", "transformers_version", "transformers_weights"}


def language_network(
    name: str, *, vocabulary: int | None = None, pretrained: bool = False, more: Mapping[str, Any] | None = None
) -> nn.Module:
    """Make a causal language model, in float32 whatever dtype its config names: that is what weights are trained in.

    Args:
        name: An architecture of transformers, such as "gpt2" or "llama"; or a folder, or with `pretrained` a repository on the
            hub, with a config.json.
        vocabulary: How many tokens there are, unless `more` has a vocab_size; None for what the config says.
        pretrained: Load the weights that the folder or repository holds.
        more: More values for the config, such as {"num_hidden_layers": 4}.

    Raises:
        ValueError: the name is unknown, the config does not take these values, or they name files or code to load.
        ImportError: transformers is not installed.
    """
    try:
        from transformers import AutoConfig, AutoModelForCausalLM
    except ImportError as error:
        message = "models called hf:NAME need transformers: pip install 'lrpet[huggingface]'"
        raise ImportError(message, name="transformers") from error
    given = dict(more or {})
    if named := foreign(given):
        raise ValueError(f"hf:{name} takes no {', '.join(named)}: these load files or code from elsewhere")
    values = ({} if vocabulary is None else {"vocab_size": vocabulary}) | given
    auto: Any = AutoModelForCausalLM
    try:
        if pretrained:
            model: nn.Module = auto.from_pretrained(name, **{**given, "dtype": torch.float32})
            return model
        if _is_folder(name):
            config = AutoConfig.from_pretrained(name, **values)
        else:
            config = AutoConfig.for_model(_architecture(name), **values)
        network: nn.Module = auto.from_config(config, dtype=torch.float32)
    except (TypeError, OSError, ValueError) as error:
        said = str(error).strip().partition("\n")[0]
        raise ValueError(f"hf:{name} makes no language model with {values or 'its own config'}: {said}") from None
    return network


def architecture_of(network: Any) -> tuple[str, dict[str, Any]]:
    """Return the name of a model's architecture, and the values of its config that are not the architecture's own."""
    values = network.config.to_diff_dict()
    foreigners = set(foreign(values))
    kept = {
        key: value
        for key, value in values.items()
        if key not in _CIRCUMSTANCES | foreigners and not key.startswith("_")
    }
    return network.config.model_type, kept


def foreign(values: Mapping[str, Any]) -> list[str]:
    """List the arguments, nested ones too, by which transformers would load files or run code from elsewhere."""
    return sorted(key for key in _keys(values) if str(key).lstrip("_").removesuffix("_internal") in FOREIGN)


def _keys(values: object) -> Iterator[Any]:
    if isinstance(values, Mapping):
        yield from values
        for value in values.values():
            yield from _keys(value)


def _is_folder(name: str) -> bool:
    """Whether a config is read from a folder, which the names of architectures hide."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as KNOWN

    return name not in KNOWN and (Path(name) / "config.json").is_file()


def _architecture(name: str) -> str:
    """Return the name of an architecture. Raises ValueError that names near ones if there is none."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as KNOWN

    if name not in KNOWN:
        near = " or ".join(f"hf:{match}" for match in difflib.get_close_matches(name, KNOWN))
        hint = f" Did you mean {near}?" if near else " gpt2 and llama are two."
        raise ValueError(f"it is neither an architecture of transformers nor a folder with a config.json.{hint}")
    return name
