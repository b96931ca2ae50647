"""Hugging Face: compact models that transformers saves and loads itself, and a callback for `Trainer` and TRL's `SFTTrainer`.

callback = LrpetCallback(macs=0.5)                           # or a plan, or a projector
trainer = Trainer(model, args, callbacks=[callback], ...)
trainer.train()
compact = callback.finish()
compact.save_pretrained("compact/")                          # or compact.push_to_hub("name/compact")

Whoever loads the folder imports this package first. It tells transformers of the quantization method "lrpet", which keeps the
plan in config.json and puts the factor pairs in place before weights are loaded:

import lrpet.integrations.huggingface
compact = AutoModelForCausalLM.from_pretrained("compact/")   # dtype, device_map and the other options are transformers' own
"""

from __future__ import annotations

from lrpet.integrations.huggingface.callback import LrpetCallback
from lrpet.integrations.huggingface.config import LrpetConfig
from lrpet.integrations.huggingface.quantizer import LrpetQuantizer
from lrpet.integrations.huggingface.reading import from_pretrained

__all__ = ["LrpetCallback", "LrpetConfig", "LrpetQuantizer", "from_pretrained"]
