"""A compact transformers model saves itself: `save_pretrained` and `push_to_hub` write what `from_pretrained` reads."""

from __future__ import annotations

import os
from pathlib import Path
from types import MethodType
from typing import Any

import transformers
from torch import nn
from transformers import PreTrainedModel

from lrpet.compact.card import model_card
from lrpet.compact.files import CARD, check_structure
from lrpet.integrations.huggingface.config import LrpetConfig
from lrpet.integrations.huggingface.names import within
from lrpet.integrations.huggingface.notice import write_notice
from lrpet.planning.plan import Plan

TAGS = ("lrpet", "low-rank", "compact")
#: What shows that a card is lrpet's: the tags, as it writes them, and as huggingface_hub does.
FRONTS = (f"tags: [{', '.join(TAGS)}]", "\n- ".join(["tags:", *TAGS]))


def attach(network: nn.Module) -> None:
    """Let every transformers model in a compact network, the network itself as a rule, keep its plan where it is saved.

    Its `config.quantization_config` holds the plan. Its `save_pretrained` and `push_to_hub` add to what transformers writes a
    card, and a notice for readers without lrpet. Models within models, such as a body below its head, can be saved alone.
    """
    plan = network.lrpet_plan
    assert isinstance(plan, Plan)
    configs: set[int] = set()  # those of a body and its head are one
    for name, module in network.named_modules():
        if isinstance(module, PreTrainedModel) and (own := within(plan, name)).ranks:
            model: Any = module
            model.lrpet_plan = own
            if id(model.config) not in configs and getattr(model, "hf_quantizer", None) is None:
                model.config.quantization_config = LrpetConfig(own)
            configs.add(id(model.config))
            model.save_pretrained = MethodType(save_pretrained, model)
            model.push_to_hub = MethodType(push_to_hub, model)


def save_pretrained(self: Any, save_directory: str | os.PathLike[str], *args: Any, **options: Any) -> None:
    """Save as `PreTrainedModel.save_pretrained` does; a card is added where there is no other, and a notice for readers.

    Raises ValueError for what could not be loaded again: a model that is quantised besides, that `lrpet.optimize` made, or
    that was factorised twice.
    """
    check_structure(self, self.lrpet_plan)
    if getattr(self, "hf_quantizer", None) is not None:
        method = self.hf_quantizer.quantization_config.quant_method
        raise ValueError(
            f"this model was quantised ({getattr(method, 'value', method)}) before it was factorised, and config.json has room "
            "for one of the two: factorise the model as it was before, and quantise what was loaded again"
        )
    config = self.config
    kept = getattr(config, "quantization_config", None)  # that of a head, where this is the body below it
    config.quantization_config = LrpetConfig(self.lrpet_plan)

    def to_json_file(path: str | os.PathLike[str], use_diff: bool = True) -> None:
        vars(config).pop("to_json_file")
        config.to_json_file(path, use_diff=use_diff)
        write_notice(Path(path))
        card = Path(path).with_name(CARD)
        if not card.exists() or any(front in card.read_text(encoding="utf-8") for front in FRONTS):
            card.write_text(card_of(self), encoding="utf-8")

    vars(config)["to_json_file"] = to_json_file  # config.json is complete before anything is uploaded
    try:
        type(self).save_pretrained(self, save_directory, *args, **options)
    finally:
        vars(config).pop("to_json_file", None)
        config.quantization_config = kept or config.quantization_config


def push_to_hub(self: Any, repo_id: str, *args: Any, **options: Any) -> Any:
    """Upload as `PreTrainedModel.push_to_hub` does; a repository without a card gets the plan's first.

    Pull requests and other branches than the main one get the card of transformers.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=options.get("token"))
    repo_id = api.create_repo(repo_id, private=options.get("private"), exist_ok=True).repo_id
    if not (options.get("create_pr") or options.get("revision") or api.file_exists(repo_id, CARD)):
        api.upload_file(
            path_or_fileobj=card_of(self).encode(), path_in_repo=CARD, repo_id=repo_id, commit_message="Add the card"
        )
    return type(self).push_to_hub(self, repo_id, *args, **options)


def card_of(model: Any) -> str:
    """Return the card of a compact transformers model."""
    name = type(model).__name__
    return model_card(model.lrpet_plan, name=name, usage=usage_of(model), library="transformers", tags=TAGS)


def usage_of(model: nn.Module) -> str:
    """Return the code by which transformers loads a compact model."""
    kind = type(model)
    home = "transformers" if getattr(transformers, kind.__name__, None) is kind else kind.__module__
    return (
        "import lrpet.integrations.huggingface  # pip install lrpet\n"
        f"from {home} import {kind.__name__}\n\n"
        f'model = {kind.__name__}.from_pretrained("this folder or repository")'
    )
