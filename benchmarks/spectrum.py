"""Singular values of one of the demo's layers while it trains: before and after projections.

python -m benchmarks.spectrum benchmarks/results/spectrum.json docs/images/spectrum.svg [--draw]

With --draw, the picture is made anew of the file of results, and nothing is trained.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

import lrpet
from benchmarks.script import parser_of, read_json, write_json
from lrpet.train.provenance import provenance

EXAMPLES = Path(__file__).parents[1] / "examples"
LAYER = "4.0"
#: The numbers of the projections that are drawn: the first, an early, and the last one of the training.
DRAWN = (0, 4, -1)


class Watching(lrpet.Projector):
    """A projector that keeps the singular values of one layer before and after every projection."""

    def __init__(self, model: nn.Module, plan: lrpet.Plan, **options: Any) -> None:
        super().__init__(model, plan, **options)
        self.seen: list[dict[str, Any]] = []

    def project(self) -> lrpet.Report:
        """Project, and keep what was there before and after, as stored in the weight."""
        before = spectrum(self.model)
        report = super().project()
        rank = self.plan.ranks[LAYER]
        pruned = sum(value**2 for value in before[rank:]) / sum(value**2 for value in before)
        self.seen.append({"step": self.steps, "pruned": pruned, "before": before, "after": spectrum(self.model)})
        return report


def spectrum(model: nn.Module) -> list[float]:
    weight = model.get_submodule(LAYER).weight
    assert isinstance(weight, torch.Tensor)
    values: list[float] = torch.linalg.svdvals(weight.detach().double().flatten(1)).tolist()
    return values


def trained() -> dict[str, Any]:
    """Train the demo's network as the demo does."""
    sys.path.insert(0, str(EXAMPLES))
    import demo
    from demo_data import Digits

    settings, digits = demo.Settings(), Digits.load()
    network = demo.make_network(settings)
    plan = lrpet.plan(network, demo.EXAMPLE, macs=settings.macs)
    projector = Watching(network, plan, total_steps=settings.steps, start=settings.start)
    demo.fit(network, digits, settings, steps=settings.steps, projector=projector)
    drawn = [
        {"step": each["step"], **{key: [float(f"{value:.4g}") for value in each[key]] for key in ("before", "after")}}
        for each in (projector.seen[number] for number in DRAWN)
    ]
    pruned = [(each["step"], float(f"{each['pruned']:.3g}")) for each in projector.seen]
    what = {"layer": LAYER, "rank": projector.plan.ranks[LAYER], "steps": settings.steps, "macs": settings.macs}
    return {**provenance(), "seed": settings.seed, **what, "pruned": pruned, "spectra": drawn}


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw the first projection, the spectrum before three projections, and what each projection prunes."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    sys.path.insert(0, str(EXAMPLES))
    from demo_report import COLOURS, DENSE, LRPET, RETRAINED

    rank, spectra = results["rank"], results["spectra"]
    style: dict[Any, Any] = {"svg.hashsalt": "lrpet", "font.size": 10.5, "axes.titlelocation": "left"}
    with plt.rc_context({**style, "axes.titlesize": 11, "axes.spines.top": False, "axes.spines.right": False}):
        figure, (first, later, energy) = plt.subplots(1, 3, figsize=(12, 3.9), layout="constrained")
        before, after = (spectra[0][key] for key in ("before", "after"))
        shown = range(1, 3 * rank + 1)
        first.plot(shown, before[: 3 * rank], color=COLOURS[DENSE], label="before")
        first.plot(shown, after[: 3 * rank], color=COLOURS[LRPET], label="after: kept values are raised")
        first.set(title=f"The first projection, step {spectra[0]['step']}", ylim=(0, None))
        for each, colour in zip(spectra, (COLOURS[DENSE], COLOURS[RETRAINED], COLOURS[LRPET]), strict=True):
            label = f"before step {each['step']} is projected"
            later.plot(range(1, len(before) + 1), each["before"], color=colour, label=label)
        later.set(title="Later ones find little to prune", yscale="log")
        for axes, end in ((first, 3 * rank), (later, len(before))):
            axes.axvspan(rank + 0.5, end, color="0.5", alpha=0.1, linewidth=0)
            axes.set(xlabel=f"singular value of layer {results['layer']}, by size; {rank} are kept")
            axes.legend(frameon=False, fontsize=9, loc="upper right", bbox_to_anchor=(1, 0.48 if axes is later else 1))
        energy.plot(*zip(*results["pruned"], strict=True), color=COLOURS[LRPET])
        energy.set(yscale="log", xlabel="step", title="Fraction of the energy that is pruned")
        for axes in (first, later, energy):
            axes.grid(alpha=0.25)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("out", type=Path, help="file of results")
    parser.add_argument("picture", type=Path, help="file that the picture goes to")
    parser.add_argument("--draw", action="store_true", help="draw the file of results, and train nothing")
    options = parser.parse_args()
    if not options.draw:
        write_json(options.out, trained(), indent=None)
    draw(read_json(options.out), options.picture)


if __name__ == "__main__":
    main()
