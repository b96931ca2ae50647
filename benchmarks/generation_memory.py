"""Print the bytes by which a fresh process grows, at its largest, that loads a language model and generates 16 tokens.

python -m benchmarks.generation_memory FOLDER DTYPE
"""

from __future__ import annotations

import sys

import torch
import transformers

import lrpet.integrations.huggingface  # noqa: F401  # transformers learns of compact models
from lrpet.exporting.sessions import resident

PROMPT, NEW_TOKENS = 32, 16


@torch.no_grad()
def grown(folder: str, dtype: torch.dtype) -> int:
    """Load and generate, greedily, from a prompt of 32 tokens."""
    vars(transformers.LlamaForCausalLM)  # imports it, before anything is measured
    before = resident("VmRSS")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    model.generate(torch.ones(1, PROMPT, dtype=torch.long), max_new_tokens=NEW_TOKENS, do_sample=False)
    return max(0, resident("VmHWM") - before)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(grown(sys.argv[1], getattr(torch, sys.argv[2])))
