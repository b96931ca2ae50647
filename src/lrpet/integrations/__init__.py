"""One file per framework: `lrpet.integrations.huggingface`, `.lightning`, `.optimizer` (plain PyTorch, accelerate, timm)."""
