"""The figures of RESULTS.md, as SVG."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot as plt

from benchmarks.accuracy.colours import COLOURS

Results = list[dict[str, Any]]

TITLES = {
    "methods": "Test accuracy of each method: seeds, and their mean",
    "macs": "Test accuracy against multiply-adds",
    "curves": "Validation accuracy over training",
    "pruned": "Energy pruned at each projection",
}
HEIGHT, PANEL, LETTER = 4.5, 5.0, 0.07
"""Inches: a figure's height, the width of its axes, and the width of a letter in a legend or beside an axis."""
#: A mean so many points below the median of its panel is written as a number, so that the others can be told apart.
FAR_BELOW = 10.0
plt.rcParams.update(
    {"svg.hashsalt": "lrpet", "svg.fonttype": "none", "axes.spines.top": False, "axes.spines.right": False}
)


def kinds(results: Results) -> dict[str, str]:
    """Return {kind: title} of the figures to draw of one network, data set and length of training."""
    shown = [result for result in results if result["method"] in COLOURS]
    there = {
        "methods": bool(results),
        "macs": len({result["keep"] for result in shown if result["keep"]}) > 1,
        "curves": bool(shown),
        "pruned": any(result["pruned"]["step"] for result in shown),
    }
    return {kind: title for kind, title in TITLES.items() if there[kind]}


def draw(results: Results, titles: Mapping[str, str], folder: Path, name: str) -> None:
    """Draw all figures of one network, data set and length of training."""
    _methods(results, titles, folder / f"methods-{name}.svg")
    results = [result for result in results if result["method"] in COLOURS]
    for kind, plot in (("macs", _macs), ("curves", _curves), ("pruned", _pruned)):
        if kind not in kinds(results):
            continue
        figure, axes = plt.subplots(layout="constrained")
        plot(axes, results, titles)
        axes.set_title(TITLES[kind], loc="left")
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
        figure.set_size_inches(PANEL + 0.8 + LETTER * max(map(len, axes.get_legend_handles_labels()[1])), HEIGHT)
        _save(figure, folder / f"{kind}-{name}.svg")


def gradients(results: Mapping[str, Any], path: Path) -> None:
    """Draw gradient norms by layer at the first projection of each network's first run."""
    networks = results["networks"]
    figure, axes = plt.subplots(1, len(networks), figsize=(10, 4), layout="constrained")
    labels = {
        "before": "before projection",
        "with_transfer": "with energy transfer",
        "without_transfer": "without",
    }
    for each, (name, runs) in zip(axes, networks.items(), strict=True):
        rows = runs[0]["projections"]
        norms = rows[0]["norms"]
        for form, label in labels.items():
            each.plot(range(1, len(norms[form]) + 1), norms[form], ".-", label=label)
        each.set(title=f"{name}, first projection", xlabel="layer", ylabel="norm of the gradient", yscale="log")
        each.legend(frameon=False, fontsize=8)
    _save(figure, path)


def _methods(results: Results, titles: Mapping[str, str], path: Path) -> None:
    """Draw a row for each method, in a panel for each budget."""
    keeps = sorted({result["keep"] for result in results if result["keep"]}, reverse=True)
    methods = list(dict.fromkeys(result["method"] for result in results))[::-1]
    named = max(len(titles[method]) for method in methods)
    size = (0.3 + LETTER * named + 0.6 * PANEL * max(1, len(keeps)), 1.2 + 0.25 * len(methods))
    figure, panels = plt.subplots(1, max(1, len(keeps)), figsize=size, layout="constrained", sharey=True, squeeze=False)
    for axes, keep in zip(panels[0], keeps or [None], strict=True):
        seeds: dict[str, list[float]] = defaultdict(list)
        for result in results:
            if result["keep"] in (None, keep):
                seeds[result["method"]].append(100 * result["test_accuracy_bn_reestimated"])
        means = {method: statistics.mean(values) for method, values in seeds.items()}
        lowest = statistics.median(means.values()) - FAR_BELOW
        near = [value for method, values in seeds.items() if means[method] >= lowest for value in values]
        for method, values in seeds.items():
            row = methods.index(method)
            if means[method] < lowest:
                axes.text(min(near), row, f"◂ {means[method]:.1f}", va="center", fontsize=8)
                continue
            axes.plot(values, [row] * len(values), ".", color="0.6", markersize=5)
            axes.plot(means[method], row, "|", color=COLOURS.get(method, "black"), markersize=11, markeredgewidth=2)
        axes.set_title("" if keep is None else f"keep {keep}")
        axes.grid(axis="y", color="0.93")
        axes.set_axisbelow(True)
    figure.supxlabel("test accuracy, BN re-estimated, %", fontsize="medium")
    panels[0][0].set_yticks(range(len(methods)), [titles[method] for method in methods])
    _save(figure, path)


def _macs(axes: Any, results: Results, titles: Mapping[str, str]) -> None:
    points: dict[str, dict[float | None, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        point = result["macs"] / 1e6, 100 * result["test_accuracy_bn_reestimated"]
        points[result["method"]][result["keep"]].append(point)
    means = {
        method: [statistics.mean(value for _, value in pairs) for pairs in by_keep.values()]
        for method, by_keep in points.items()
    }
    lowest = statistics.median(value for values in means.values() for value in values) - FAR_BELOW
    far = [method for method, values in means.items() if max(values) < lowest]
    for method in far:
        del points[method]
    for i, (method, by_keep) in enumerate(points.items()):
        aside = 0.0 if method == "dense" else 0.08 * (i / len(points) - 0.5)  # else they cover each other
        seeds = [list(zip(*pairs, strict=True)) for pairs in by_keep.values()]
        x = [statistics.mean(macs) * (1 + aside) for macs, _ in seeds]
        mean = [statistics.mean(values) for _, values in seeds]
        error = [statistics.stdev(values) if len(values) > 1 else 0.0 for _, values in seeds]
        mark = "o" if "energy" in method else "s"  # methods of one colour differ in how ranks are divided
        axes.errorbar(x, mean, error, fmt=mark, capsize=3, label=titles[method], color=COLOURS[method])
    for method in far:
        values = ", ".join(f"{value:.1f}" for value in means[method])
        axes.plot([], [], "v", color=COLOURS[method], label=f"{titles[method]}: {values}, far below")
    axes.set(
        xlabel="multiply-adds, M (moved apart a little at each budget)", ylabel="test accuracy, BN re-estimated, %"
    )


def _curves(axes: Any, results: Results, titles: Mapping[str, str]) -> None:
    keep = max((result["keep"] for result in results if result["keep"]), default=None)
    runs: dict[str, list[list[float]]] = defaultdict(list)
    for result in results:
        values = result["curve"]["val_accuracy"]
        if result["keep"] in (None, keep) and result["method"] != "truncation" and None not in values:
            runs[result["method"]].append([100 * value for value in values])
    for method, curves in runs.items():
        mean = [statistics.mean(values) for values in zip(*curves, strict=True)]
        axes.plot(range(1, len(mean) + 1), mean, label=titles[method], color=COLOURS[method])
    axes.set(xlabel="epoch", ylabel="validation accuracy in training, %")
    axes.xaxis.get_major_locator().set_params(integer=True)


def _pruned(axes: Any, results: Results, titles: Mapping[str, str]) -> None:
    drawn: set[tuple[str, float]] = set()
    keeps = {result["keep"] for result in results if result["keep"]}
    rates: list[list[float]] = []
    for result in results:
        key = (result["method"], result["keep"])
        if not result["pruned"]["step"] or key in drawn:
            continue
        drawn.add(key)
        steps, lr, pruned = (result["pruned"][what] for what in ("step", "lr", "pruned"))
        if not rates or steps[-1] - steps[0] > rates[0][-1] - rates[0][0]:  # the rate as far as any run shows it
            rates = [steps, lr]
        style = "-" if result["keep"] == max(keeps) else "--"
        label = f"{titles[result['method']]}, keep {result['keep']}"
        axes.plot(steps, pruned, style, label=label, color=COLOURS[result["method"]], alpha=0.8)
    if rates:
        axes.plot(
            rates[0], [rate / max(rates[1]) for rate in rates[1]], ":", color="0.5", label="learning rate / its peak"
        )
    axes.set(xlabel="step", ylabel="fraction of energy pruned, mean over layers", yscale="log")


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
