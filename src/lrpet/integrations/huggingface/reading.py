"""Compact transformers models by their own class, those of folders that earlier versions of lrpet wrote included."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import transformers

from lrpet.compact.files import MANIFEST, read_manifest
from lrpet.integrations.huggingface.config import LrpetConfig

GENERATION = "generation_config.json"


def from_pretrained(name: str | os.PathLike[str], **options: Any) -> Any:
    """Load a compact model by the class that it was saved from.

    Folders that `save_pretrained` of a compact model wrote are loaded by transformers' own classes as well. Folders of
    earlier versions of lrpet, with lrpet.json beside the config, are loaded here alone; save the model to renew the folder.

    Args:
        name: A folder, or a repository on the hub.
        options: Those of transformers' `from_pretrained`, such as `dtype` and `device_map`; for a repository, `revision`,
            `token` and `cache_dir` too.

    Raises:
        ValueError: The class is not one of transformers', or the folder is damaged.
        OSError: There is no such folder or repository.
    """
    folder = Path(name)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        download = {key: options.pop(key) for key in ("revision", "token", "cache_dir") if key in options}
        folder = Path(snapshot_download(os.fspath(name), **download))
    config = options.pop("config", None) or transformers.AutoConfig.from_pretrained(folder)
    if (folder / MANIFEST).is_file():
        manifest = read_manifest(folder)
        config.quantization_config = LrpetConfig(manifest["plan"]).to_dict()
        kind = manifest["class"].rpartition(".")[2]
    else:
        kind = (config.architectures or ["model without a class"])[0]
    model_class = getattr(transformers, kind, None)
    if model_class is None:
        raise ValueError(
            f"{folder} holds a {kind}, which transformers does not have: call from_pretrained of the class itself"
        )
    loaded = model_class.from_pretrained(folder, config=config, **options)
    model = loaded[0] if isinstance(loaded, tuple) else loaded
    if (folder / MANIFEST).is_file() and model.can_generate() and not (folder / GENERATION).is_file():
        model.generation_config.use_cache = (
            True  # the Trainer turns it off in the config, which is all these folders have
        )
    return loaded
