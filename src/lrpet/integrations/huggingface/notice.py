"""What a reader without lrpet meets: an error that says what to do, in place of a network with random factors.

transformers skips a quantization method that it does not know, with a warning. Layers that are not in the file then get random
weights. config.json therefore names an index of weights, as "transformers_weights", which leads to a file that is not there.
The name of that file is the advice, and the error shows it. The quantizer of lrpet takes the entry away before transformers
looks for weights, which are in the usual place.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

KEY = "transformers_weights"
INDEX = "lrpet.safetensors.index.json"
ADVICE = "pip install lrpet, then import lrpet.integrations.huggingface before from_pretrained"
MISSING = f"compact model ({ADVICE}).safetensors"


def write_notice(config: Path) -> None:
    """Let config.json, just written by transformers, name an index that leads to the advice; write the index beside it."""
    entries = json.loads(config.read_text(encoding="utf-8"))
    entries[KEY] = INDEX
    config.write_text(json.dumps(entries, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    index = {"metadata": {"advice": ADVICE}, "weight_map": {ADVICE: MISSING}}
    config.with_name(INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def without_notice(config: Any) -> Any:
    """Return a transformers config that has been rid of the entry."""
    if getattr(config, KEY, None) == INDEX:
        delattr(config, KEY)
    return config
