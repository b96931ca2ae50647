"""Compact networks through every export format: what is read back from each file against the network.

    python -m benchmarks.exports OUT.json [--networks NAME …] [--formats NAME …]

Networks are at 45 % of their multiply-adds, with random weights. Batch norms have the statistics of random images. `export`
checks each file on random inputs of several batch sizes, and `verify` reads it again.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import lrpet
from benchmarks.script import parser_of, write_json
from lrpet import models
from lrpet.exporting import verify
from lrpet.exporting.formats import SUFFIXES
from lrpet.train.provenance import provenance

MACS = 0.45
TOKENS = torch.randint(0, 1000, (2, 64), generator=torch.Generator().manual_seed(0))


def language_model() -> nn.Module:
    """Return a transformer over tokens, of four layers and random weights."""
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=1000, hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024
    )
    return BertForSequenceClassification(config)


Case = tuple[Callable[[], nn.Module], Any]
#: {name: (what makes the network, example inputs)}.
CASES: dict[str, Case] = {
    "ResNet-20": (lambda: models.create("resnet20"), torch.randn(2, 3, 32, 32)),
    "ResNet-50": (lambda: models.create("torchvision:resnet50"), torch.randn(2, 3, 224, 224)),
    "ViT-S/16": (lambda: models.create("timm:vit_small_patch16_224"), torch.randn(2, 3, 224, 224)),
    "ResNeXt-50, grouped": (lambda: models.create("torchvision:resnext50_32x4d"), torch.randn(2, 3, 224, 224)),
    "BERT of 4 layers": (language_model, {"input_ids": TOKENS, "attention_mask": torch.ones_like(TOKENS)}),
}


def compact(case: Case) -> nn.Module:
    """Return the compact network, its batch norms with the statistics of random images."""
    make, example = case
    torch.manual_seed(0)
    network = make().train()
    if isinstance(example, torch.Tensor):
        for _ in range(20):  # else the numbers of deep networks grow from layer to layer
            network(torch.randn(8, *example.shape[1:]))
    return lrpet.compress(network.eval(), example, macs=MACS).eval()


def measure(name: str, network: nn.Module, example: Any, suffix: str) -> dict[str, Any]:
    """Export a network, read the file again, and return what came of it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"network{suffix}"
        begin = time.perf_counter()
        try:
            lrpet.export(network, path, example)
            artefact = verify(path)
        except ValueError as error:
            return {"network": name, "format": SUFFIXES[suffix], "refused": str(error)}
        seconds = time.perf_counter() - begin
        (check,) = artefact.manifest["checks"]
        known = {"bytes": artefact.size, "seconds": round(seconds, 1), "folded": len(artefact.manifest["folded"])}
        return {
            "network": name,
            "format": artefact.format,
            **known,
            **check,
            "backend": artefact.manifest.get("backend"),
        }


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("out", type=Path, help="file that the results are written to")
    parser.add_argument("--networks", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--formats", nargs="+", choices=SUFFIXES.values(), default=list(SUFFIXES.values()))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rows: list[dict[str, Any]] = []
    for name in options.networks:
        network = compact(CASES[name])
        for suffix, format in SUFFIXES.items():
            if format in options.formats:
                rows.append(measure(name, network, CASES[name][1], suffix))
                print(rows[-1], flush=True)
    write_json(options.out, {**provenance(), "seed": 0, "macs": MACS, "rows": rows})


if __name__ == "__main__":
    main()
