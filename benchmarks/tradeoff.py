"""Test accuracy against measured time, at several budgets and seeds: the demo's network, by LRPET and by its rivals.

    python -m benchmarks.tradeoff OUT.json PICTURE.svg [--seeds 0 1 2 3 4] [--budgets 0.5 0.3 0.15 0.08] [--draw]

Every method takes the steps of one training, dense ones included. A budget is a fraction of the multiply-adds. `--draw` only
draws the picture from OUT.json.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

import lrpet
from benchmarks.accuracy.methods.pruning import prune
from benchmarks.script import parser_of, read_json, write_json
from lrpet.latency.bench import bench
from lrpet.train.provenance import provenance

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import demo
from demo_data import Digits, accuracy
from demo_report import COLOURS, DENSE, LRPET, RETRAINED, SVD_BN

__all__ = [
    "DENSE",
    "FACTORS",
    "LRPET",
    "PRUNED",
    "RETRAINED",
    "SVD_BN",
    "Digits",
    "demo",
    "draw",
    "means",
    "networks",
    "table",
]

FACTORS, PRUNED = "thin layers from scratch", "channels pruned half-way, retrained"
PICTURED = {**COLOURS, FACTORS: "#009e73", PRUNED: "#8c564b"}
#: Numbers of channels that are pruned to, since runtimes are slow at others.
CHANNELS = 8
#: The number of batches that batch norm's statistics are re-estimated from, as in the demo.
REESTIMATED_FROM = 30
#: Means so far below the dense network's are told by a number at the lower edge, so that the others can be told apart.
FAR_BELOW = 0.08
#: The accuracies that are written on the axis, whose scale is the logarithm of the error.
TICKS = (0.3, 0.5, 0.7, 0.8, 0.85, 0.9, 0.92, 0.93, 0.94, 0.95, 0.96, 0.98)


def factors(digits: Digits, settings: demo.Settings) -> nn.Module:
    """Train thin layers from the first step on; they begin as the SVD of a fresh network."""
    network = demo.make_network(settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # factorize cuts a fresh network, which is the point
        compact = lrpet.factorize(network, lrpet.plan(network, demo.EXAMPLE, macs=settings.macs, allocate="uniform"))
    demo.fit(compact, digits, settings, steps=settings.steps)
    return compact.eval()


def pruned(digits: Digits, settings: demo.Settings) -> nn.Module:
    """Train densely for the first half of the steps, prune channels, and train on for the other half."""
    network, half = demo.make_network(settings), round(settings.start * settings.steps)
    demo.fit(network, digits, settings, steps=half)
    budget = lrpet.plan(network, demo.EXAMPLE, macs=settings.macs).layer_macs
    compact = prune(network, demo.EXAMPLE, macs=budget, round_to=CHANNELS)
    demo.fit(compact, digits, replace(settings, seed=settings.seed + 1), steps=settings.steps - half)
    return compact.eval()


def through_disk(compact: nn.Module, settings: demo.Settings) -> nn.Module:
    """Save and load, as a user would."""
    with tempfile.TemporaryDirectory() as folder:
        lrpet.save(compact, Path(folder) / "compact")
        return lrpet.load(Path(folder) / "compact", demo.make_network(settings)).eval()


def networks(digits: Digits, settings: demo.Settings, budgets: list[float]) -> dict[tuple[str, float], nn.Module]:
    """Train every method at every budget: {(method, budget): network}; that of the dense network is 1."""
    dense = demo.train_dense(digits, settings)[0]
    methods: dict[str, Callable[[demo.Settings], nn.Module]] = {
        LRPET: lambda own: through_disk(demo.train_lrpet(digits, own)[0], own),
        RETRAINED: lambda own: demo.train_cut_train(digits, own)[0],
        FACTORS: lambda own: factors(digits, own),
        PRUNED: lambda own: pruned(digits, own),
        SVD_BN: lambda own: demo.svd(dense, own, demo.batches(digits, own, REESTIMATED_FROM)),
    }
    found = {(DENSE, 1.0): dense}
    for budget in budgets:
        for name, train in methods.items():
            found[name, budget] = train(replace(settings, macs=budget))
    return found


def measure(seed: int, digits: Digits, budgets: list[float]) -> list[dict[str, Any]]:
    """Train and time all networks of a seed."""
    settings = replace(demo.Settings(), seed=seed)
    found = networks(digits, settings, budgets)
    named = {f"{name} {budget:g}": network for (name, budget), network in found.items()}
    images = demo.EXAMPLE.repeat(settings.timed_batch, 1, 1, 1)
    rows = bench(named, images, runtimes=["onnxruntime"], seconds=settings.seconds).to_dict()["rows"]
    times = {row["network"]: row for row in rows}
    return [
        {
            "method": name,
            "budget": budget,
            "seed": seed,
            "accuracy": accuracy(network, digits.test),
            **{key: times[f"{name} {budget:g}"][key] for key in ("milliseconds", "quartiles", "time_ratio")},
            **{key: times[f"{name} {budget:g}"]["cost"][key] for key in ("macs", "params")},
        }
        for (name, budget), network in found.items()
    ]


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("out", type=Path, help="file of the results")
    parser.add_argument("picture", type=Path, help="file of the picture")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.5, 0.3, 0.15, 0.08])
    parser.add_argument("--draw", action="store_true", help="draw what is in OUT.json already")
    options = parser.parse_args()
    if not options.draw:
        source, digits = provenance(), Digits.load()
        images = {"test_images": len(digits.test[1]), "timed_batch": demo.Settings().timed_batch}
        rows: list[dict[str, Any]] = []
        for done, seed in enumerate(options.seeds, start=1):
            found = measure(seed, digits, options.budgets)
            rows += found
            write_json(options.out, {**source, "seed": options.seeds[:done], **images, "rows": rows})
            for row in found:
                told = f"{row['accuracy']:.1%}, {row['milliseconds']:.2f} ms, {row['macs'] / 1e6:.2f} M"
                print(f"seed {seed}, {row['method']} {row['budget']:g}: {told}", flush=True)
    draw(read_json(options.out), options.picture)


def means(results: dict[str, Any]) -> dict[tuple[str, float], dict[str, float]]:
    """Return {(method, budget): the mean time, and mean and deviation of the accuracy} over seeds."""
    found = {}
    for method, budget in dict.fromkeys((row["method"], row["budget"]) for row in results["rows"]):
        rows = [row for row in results["rows"] if (row["method"], row["budget"]) == (method, budget)]
        accuracies = [row["accuracy"] for row in rows]
        found[method, budget] = {
            "milliseconds": statistics.mean(row["milliseconds"] for row in rows),
            "accuracy": statistics.mean(accuracies),
            "deviation": statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0,
        }
    return found


def table(results: dict[str, Any]) -> list[str]:
    """Return a row for every method, with accuracies and times at every budget, as lines of Markdown."""
    found = means(results)
    budgets = sorted({budget for _, budget in found if budget < 1}, reverse=True)

    def cell(method: str, budget: float) -> str:
        each = found[method, budget]
        told = f"{100 * each['accuracy']:.1f} ± {100 * each['deviation']:.1f} %, {each['milliseconds']:.2f} ms"
        return f"**{told}**" if method == LRPET else told

    lines = [f"| method | {' | '.join(f'{budget:.0%} of the multiply-adds' for budget in budgets)} |"]
    lines += ["|---" * (1 + len(budgets)) + "|"]
    for method in dict.fromkeys(name for name, _ in found if name != DENSE):
        lines.append(f"| {method} | {' | '.join(cell(method, budget) for budget in budgets)} |")
    return lines


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw accuracy against time, a line for each method through its budgets, with deviations over seeds as bars."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    found, seeds = means(results), len(results["seed"])
    style: dict[Any, Any] = {"svg.hashsalt": "lrpet", "font.size": 10.5}
    dense = found[DENSE, 1.0]
    with plt.rc_context({**style, "axes.spines.top": False, "axes.spines.right": False}):
        figure, axes = plt.subplots(figsize=(9, 5.2), layout="constrained")
        for method in dict.fromkeys(name for name, _ in found):
            points = sorted((budget, each) for (name, budget), each in found.items() if name == method)
            x = [each["milliseconds"] for _, each in points]
            y = [1 - each["accuracy"] for _, each in points]
            bars = [each["deviation"] for _, each in points]
            bold = method in (LRPET, DENSE)
            axes.errorbar(x, y, bars, fmt="o-", color=PICTURED[method], linewidth=2.6 if method == LRPET else 1.4,
                          markersize=8 if bold else 5, capsize=3, elinewidth=1, zorder=3 if bold else 2)  # fmt: skip
        axes.axhline(1 - dense["accuracy"], color=PICTURED[DENSE], linewidth=0.8, linestyle=":")
        worst = max(1 - each["accuracy"] for each in found.values() if each["accuracy"] > dense["accuracy"] - FAR_BELOW)
        axes.set(xlabel=f"milliseconds for {results['timed_batch']} images in ONNX Runtime", ylabel="test accuracy",
                 xlim=(0, 1.08 * dense["milliseconds"]), yscale="log")  # fmt: skip
        shown = [tick for tick in TICKS if 1 - tick < 1.25 * worst]
        axes.set_yticks([1 - tick for tick in shown], [f"{tick:.0%}" for tick in shown])
        axes.minorticks_off()
        axes.set_ylim(1.25 * worst, 0.78 * (1 - dense["accuracy"]))  # good is up
        label(axes, found)
        axes.set_title(f"Accuracy against measured time: means and deviations of {seeds} seeds", loc="left")
        axes.grid(alpha=0.25)
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


def label(axes: Any, found: dict[tuple[str, float], dict[str, float]]) -> None:
    """Name the methods, the budgets at the points of LRPET, and the means that are below the picture."""
    lowest, beside = axes.get_ylim()[0], {"textcoords": "offset points", "weight": "bold"}
    for (method, budget), each in found.items():
        error, colour = 1 - each["accuracy"], PICTURED[method]
        if method == LRPET:
            axes.annotate(f"{budget:.0%}", (each["milliseconds"], error), (-9, 9), ha="right", color=colour, **beside)
        if error > lowest:
            told = f"▾ {each['accuracy']:.0%}"
            axes.annotate(told, (each["milliseconds"], lowest), (9, 5), color=colour, **beside)
    for method in dict.fromkeys(name for name, _ in found):
        axes.plot([], [], "o-", color=PICTURED[method], label=method, linewidth=2.6 if method == LRPET else 1.4)
    axes.legend(frameon=False, loc="lower right", title="numbers: budgets, in multiply-adds", alignment="left")


if __name__ == "__main__":
    main()
