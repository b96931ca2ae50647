"""A small language model on Python's own sources: low rank by projection, and its rivals, from one dense half.

    python -m benchmarks.language OUT.jsonl --seed 0 [--macs 0.5] [--steps 1600]

Every arm has equal batches, learning rates and steps. All but factors from scratch begin with the dense network as it is after
half of the steps. Ranks are uniform. Tokens are bytes. The loss is that of the test files, looked at once, when all is done.
A line is written for each arm:

    dense          no compression
    projected      a projection every 5 steps from half on (lrpet's default), and factors at the end
    no_transfer    the same without energy transfer
    retrained      singular value decomposition at half, then the factors are trained
    scratch        factors of the first weights' decomposition (spectral initialisation), trained from the beginning
    cut            singular value decomposition of the dense network at its end, and no training
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import lrpet
from benchmarks.script import parser_of
from lrpet.models.language import language_network
from lrpet.train.data.options import BatchOptions
from lrpet.train.data.text import TokenBatches, load_text
from lrpet.train.provenance import provenance

CONTEXT, BATCH, WARMUP, RATE = 128, 16, 100, 1.5e-3
#: The test windows that are scored: so many batches, spread over the test files.
SCORED = 40
SHAPE = {
    "hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 384, "max_position_embeddings": CONTEXT, "tie_word_embeddings": False,
    "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip


class Training:
    """The data, and how far training has come; copied where arms part."""

    def __init__(self, *, seed: int, steps: int) -> None:
        self.text = load_text("text:stdlib", context=CONTEXT)
        self.seed, self.steps = seed, steps

    def batches(self, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches from a step on, epoch after epoch."""
        batches = TokenBatches(
            self.text.train, BatchOptions(BATCH, seed=self.seed), device=torch.device("cpu"), train=True
        )
        epoch, done = divmod(first, len(batches))
        while True:
            batches.set_epoch(epoch, done=done)
            yield from batches
            epoch, done = epoch + 1, 0

    def run(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int, after: Callable[[], Any]
    ) -> None:
        """Train from one step to another."""
        model.train()
        for step, (tokens, targets) in zip(range(first, last), self.batches(first), strict=False):
            for group in optimizer.param_groups:
                group["lr"] = RATE * self.factor(step)
            loss = F.cross_entropy(logits_of(model, tokens), targets)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            after()

    def factor(self, step: int) -> float:
        """Return the fraction of the highest learning rate: a warm-up, then a cosine down to 5 %."""
        if step < WARMUP:
            return (step + 1) / WARMUP
        return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / (self.steps - WARMUP)))

    @torch.no_grad()
    def loss(self, model: nn.Module) -> float:
        """Return the mean loss in nats a byte on windows spread over the test files."""
        model.eval()
        windows = TokenBatches(self.text.test, BatchOptions(32), device=torch.device("cpu"), train=False)
        every = max(1, len(windows) // SCORED)
        losses = [F.cross_entropy(logits_of(model, x), y).item() for i, (x, y) in enumerate(windows) if i % every == 0]
        return sum(losses) / len(losses)


def logits_of(model: nn.Module, tokens: Tensor) -> Tensor:
    """Return logits of shape (batch, vocabulary, length)."""
    logits: Tensor = model(input_ids=tokens, use_cache=False).logits
    return logits.transpose(1, 2)


def optimizer_of(model: nn.Module) -> torch.optim.AdamW:
    matrices = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.95))


def arms(training: Training, *, macs: float) -> Iterator[dict[str, Any]]:
    """Train every arm, and yield its row."""
    half, steps, example = training.steps // 2, training.steps, {"input_ids": torch.zeros(1, CONTEXT, dtype=torch.long)}
    torch.manual_seed(training.seed)
    model = language_network("llama", vocabulary=256, more=SHAPE)
    plan = lrpet.plan(model, {**example, "use_cache": False}, macs=macs, allocate="uniform").settled()

    def compressed(network: nn.Module) -> nn.Module:
        copied = copy.deepcopy(network)
        lrpet.Projector(copied, plan, start=0, every=1, energy_transfer=False).project()
        return lrpet.factorize(copied, plan)

    def row(arm: str, network: nn.Module, begin: float) -> dict[str, Any]:
        params = sum(p.numel() for p in network.parameters())
        return {
            "arm": arm, "loss": training.loss(network), "params": params, "seconds": time.perf_counter() - begin,
        }  # fmt: skip

    begin = time.perf_counter()
    factors = compressed(model)
    training.run(factors, optimizer_of(factors), 0, steps, lambda: None)
    yield row("scratch", factors, begin)

    begin = time.perf_counter()
    optimizer = optimizer_of(model)
    training.run(model, optimizer, 0, half, lambda: None)
    dense_half = time.perf_counter() - begin
    for arm, transfer in {"projected": True, "no_transfer": False}.items():
        begin = time.perf_counter() - dense_half
        own = copy.deepcopy(model)
        projector = lrpet.Projector(own, plan, total_steps=half, start=0, every=5, energy_transfer=transfer)
        own_optimizer = optimizer_of(own)
        own_optimizer.load_state_dict(optimizer.state_dict())
        training.run(own, own_optimizer, half, steps, projector.step)
        yield row(arm, projector.finish(), begin)
    begin = time.perf_counter() - dense_half
    factors = compressed(model)
    training.run(factors, optimizer_of(factors), half, steps, lambda: None)
    yield row("retrained", factors, begin)
    begin = time.perf_counter() - dense_half
    training.run(model, optimizer, half, steps, lambda: None)
    yield row("dense", model, begin)
    yield row("cut", compressed(model), begin)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("out", type=Path, help="file that a line is added to for each arm")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--macs", type=float, default=0.5, help="fraction of the dense network's multiply-adds")
    parser.add_argument("--steps", type=int, default=1600)
    options = parser.parse_args()
    about = {**provenance(), "seed": options.seed, "macs": options.macs, "steps": options.steps}
    for row in arms(Training(seed=options.seed, steps=options.steps), macs=options.macs):
        print(row, flush=True)
        with options.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**row, **about}) + "\n")


if __name__ == "__main__":
    main()
