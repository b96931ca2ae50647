"""Small networks whose inputs and outputs are not one tensor."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TokenModel(nn.Module):
    """A transformer of token numbers with a mask, which returns a mapping."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.query, self.key, self.value = (nn.Linear(16, 16) for _ in range(3))
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor | None]:
        x = self.embed(input_ids)
        scores = self.query(x) @ self.key(x).mT / 4
        scores = scores.masked_fill(attention_mask[:, None] == 0, -1e4)
        x = x + scores.softmax(-1) @ self.value(x)
        x = x + self.down(self.up(x).relu())
        return {"logits": self.head(x), "loss": None, "hidden": x}


def token_inputs(batch: int = 2) -> dict[str, Tensor]:
    """Return numbers of tokens and a mask, by the names that `TokenModel` has for them."""
    random = torch.Generator().manual_seed(3)
    mask = torch.ones(batch, 7, dtype=torch.long)
    mask[:, 5:] = 0
    return {"input_ids": torch.randint(20, (batch, 7), generator=random), "attention_mask": mask}
