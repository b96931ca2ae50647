"""The Hugging Face Trainer: a callback, and a compact model that transformers itself reads back.

python examples/huggingface_trainer.py

"""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from lrpet.integrations.huggingface import LrpetCallback


def count_up() -> list[dict[str, torch.Tensor]]:
    """Make 256 sequences of sixteen numbers that count up from a random one, modulo 64."""
    first = torch.randint(0, 64, (256, 1), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": row, "labels": row} for row in (first + torch.arange(16)) % 64]


def main(folder: str = "runs/huggingface", *, epochs: int = 10) -> list[int]:
    """Train, save, load, and return what the compact model goes on with after 5, 6, 7, 8."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=64, n_embd=64, n_layer=2, n_head=2, n_positions=32, bos_token_id=0, eos_token_id=0)
    model = GPT2LMHeadModel(config)
    arguments = TrainingArguments(
        f"{folder}/trainer",
        per_device_train_batch_size=16,
        num_train_epochs=epochs,
        learning_rate=3e-3,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    callback = LrpetCallback(macs=0.6)  # a budget; a plan or a projector will do as well
    Trainer(model, arguments, train_dataset=count_up(), callbacks=[callback]).train()
    callback.finish().save_pretrained(f"{folder}/compact")  # type: ignore[operator]

    compact = AutoModelForCausalLM.from_pretrained(f"{folder}/compact")
    prompt = torch.tensor([[5, 6, 7, 8]])
    tokens = compact.generate(prompt, max_new_tokens=4, do_sample=False)[0, 4:].tolist()
    print(f"5, 6, 7, 8 goes on with {', '.join(map(str, tokens))}")
    return tokens  # type: ignore[no-any-return]


if __name__ == "__main__":
    main()
