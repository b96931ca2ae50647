"""Train a dense and a low-rank network on 8×8 digits, compare them, and leave what a user would deploy.

python examples/demo.py FOLDER

"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import lrpet
from lrpet.train.config import make_config
from lrpet.train.console import summary_table
from lrpet.train.run import train

RECIPE = {"model": "resnet20", "data": "digits", "epochs": 30, "batch_size": 64, "lr": 0.1, "seed": 0}


def main(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    dense = train(make_config({**RECIPE, "method": "dense", "output": folder / "dense"}))
    compact = train(make_config({**RECIPE, "macs": 0.5, "output": folder / "lrpet"}))

    network = lrpet.load(folder / "lrpet" / "compact")
    exported = lrpet.export(network, folder / "compact.onnx", torch.zeros(1, 1, 8, 8), overwrite=True)
    plot(folder)

    console = Console()
    console.print(summary_table([dense, compact]))
    console.print(f"compact network      {folder / 'lrpet' / 'compact'}   (lrpet.load reads it)")
    console.print(f"the same as ONNX     {folder / 'compact.onnx'}   (ONNX Runtime agrees to {exported.error:.0e})")
    console.print(f"accuracy and energy  {folder / 'training.png'}")


def plot(folder: Path) -> None:
    """Plot both networks' validation accuracy, and the energy pruned at each projection, over the steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (top, bottom) = plt.subplots(2, 1, sharex=True, figsize=(7, 6), layout="constrained")
    for name, label in (("dense", "dense"), ("lrpet", "low-rank projection, half the multiply-adds")):
        epochs = [line for line in read_metrics(folder / name) if line["kind"] == "epoch"]
        top.plot([line["step"] for line in epochs], [100 * line["val_accuracy"] for line in epochs], label=label)
    projections = [line for line in read_metrics(folder / "lrpet") if line["kind"] == "projection"]
    steps, pruned = ([line[key] for line in projections] for key in ("step", "pruned"))
    bottom.semilogy(steps, [100 * fraction for fraction in pruned], "o-", markersize=3, color="C1")
    top.set(ylabel="validation accuracy, %", title="ResNet-20 on 8×8 digits")
    top.legend()
    top.grid(alpha=0.3)
    bottom.set(ylabel="energy pruned at each projection,\n% (mean over the layers)", xlabel="optimizer step")
    bottom.grid(alpha=0.3)
    figure.savefig(folder / "training.png", dpi=120)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
