"""A small language model on Python's own sources: low rank by projection, and its rivals.

    python -m benchmarks.language OUT.jsonl --seed 0 [--macs 0.5 0.3] [--steps 1000] [--arms projected pat]
        [--hidden 256 --precision bf16]
    python -m benchmarks.language OUT.jsonl --seed 0 --macs 0.7 0.5 0.3 --arms tuned

Every arm has equal batches, learning rates and steps. Most begin with the dense network as it is after half of the steps, the
others with its first weights. Ranks are uniform. Tokens are bytes. Losses are those of a part of the training files that is
held out, on which choices are made, and of the test files. A line is written for each arm: `benchmarks.language_arms` says
what it is. "tuned" stands for all arms that fine-tune the trained network, see `benchmarks.language_tuned`.
"""

from __future__ import annotations

import json
from pathlib import Path

from torch import nn

from benchmarks.language_arms import ARMS, Shared, Start
from benchmarks.language_training import Training
from benchmarks.language_tuned import TUNED
from benchmarks.script import parser_of
from lrpet.train.provenance import provenance


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("out", type=Path, help="file that a line is added to for each arm")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--macs", type=float, nargs="+", default=[0.5, 0.3], help="fractions of the multiply-adds")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--arms", nargs="+", choices=[*ARMS, *TUNED, "tuned"], default=list(ARMS))
    parser.add_argument(
        "--hidden", type=int, default=128, help="the model's width: 128 is 0.85 M parameters, 256 is 3.28 M"
    )
    parser.add_argument("--precision", choices=["no", "bf16"], default="no", help="bf16: trained with autocast")
    options = parser.parse_args()
    about = {name: getattr(options, name) for name in ("seed", "steps", "hidden", "precision")}
    about = {**provenance(), **about}
    training = Training(seed=options.seed, steps=options.steps, autocast=options.precision == "bf16")
    shared = Shared(training, hidden=options.hidden)
    arms = [name for arm in options.arms for name in (TUNED if arm == "tuned" else (arm,))]
    for macs in options.macs:
        start = Start(shared, macs=macs)
        for arm in arms:
            row = {"arm": arm, "macs": macs, **measured({**ARMS, **TUNED}[arm](start), shared.training)}
            print(row, flush=True)
            with options.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps({**row, **about}) + "\n")


def measured(network: nn.Module, training: Training) -> dict[str, float]:
    """Return the losses of a network, and its size."""
    return {
        "loss": training.loss(network, training.test),
        "held_out": training.loss(network, training.held_out),
        "params": sum(parameter.numel() for parameter in network.parameters()),
    }


if __name__ == "__main__":
    main()
