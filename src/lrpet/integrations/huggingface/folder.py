"""One folder for two readers: `lrpet.load`, and `from_pretrained` of transformers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

import lrpet
from lrpet.compact.card import UNKNOWN, model_card
from lrpet.compact.files import CARD
from lrpet.compact.write import written_folder
from lrpet.integrations.huggingface.native import TAGS, usage_of


def save_for_both(model: nn.Module, folder: Path, *, metadata: Mapping[str, Any]) -> None:
    """Write a compact transformers model that `lrpet.load` can make by name, with what transformers reads beside it.

    The folder appears whole or not at all. It takes the place of one that is there, whose other files stay.

    Raises ValueError as `lrpet.save` does.
    """
    compact: Any = model
    with written_folder(folder, overwrite=True, keep_others=True) as whole:
        # Both readers share the file of weights that lrpet.save writes, which is in one piece.
        compact.save_pretrained(whole, max_shard_size=1 << 60)
        for path in list(lrpet.save(model, whole / "lrpet", metadata=metadata).iterdir()):
            path.replace(whole / path.name)
        (whole / "lrpet").rmdir()
        usage = f'import lrpet\n\nmodel = lrpet.load("this folder")\n\n# or by transformers\n{usage_of(model)}'
        name = type(model).__name__
        licence = str(metadata.get("license") or UNKNOWN)
        options: dict[str, Any] = {"library": "transformers", "tags": TAGS, "licence": licence}
        card = model_card(compact.lrpet_plan, name=name, usage=usage, **options)
        (whole / CARD).write_text(card, encoding="utf-8")
