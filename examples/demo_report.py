"""The table, the verdict and the picture of the demo, from its results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

DENSE, LRPET = "dense", "LRPET"
SVD, SVD_BN, RETRAINED = "SVD at the end", "SVD, batch norm redone", "SVD half-way, retrained"

COLOURS = {DENSE: "#333333", LRPET: "#0072b2", SVD: "#c1272d", SVD_BN: "#d9742b", RETRAINED: "#b08d00"}
HEAD = ("", "accuracy", "params,\nM", "multiply-\nadds, M", "eager,\nms", "ONNX,\nms", "disk,\nMB")


def measured(results: dict[str, Any], name: str, runtime: str) -> dict[str, Any]:
    """Return what was measured of one network on one runtime."""
    return next(row for row in results["bench"]["rows"] if (row["network"], row["runtime"]) == (name, runtime))


def cells(results: dict[str, Any], name: str) -> tuple[str, ...]:
    """Return one row of the table."""
    eager, runtime = (measured(results, name, each) for each in ("eager", "onnxruntime"))
    cost = eager["cost"]
    return (
        name,
        f"{results['arms'][name]['accuracy']:.1%}",
        f"{cost['params'] / 1e6:.2f}",
        f"{cost['macs'] / 1e6:.1f}",
        f"{eager['milliseconds']:.1f}",
        f"{runtime['milliseconds']:.1f}",
        f"{cost['size'] / 1e6:.2f}",
    )


def table(results: dict[str, Any]) -> Table:
    """Return a row for every network: accuracy on the test part, costs, and times of one batch."""
    settings = results["settings"]
    made = Table(
        box=box.SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
        caption=f"Accuracy is that on {results['test_images']:,} images kept for this table. Milliseconds of "
        f"{settings['timed_batch']} images in PyTorch (eager) and "
        f"ONNX Runtime. Each was trained for {settings['steps']} steps in all. SVD at the end cuts the "
        "dense network. Batch norm redone: its statistics are re-estimated after the cut. Retrained: the thin layers were "
        "trained for the second half of the steps.\n",
        caption_justify="left",
    )
    for column in HEAD:
        made.add_column(column, justify="right" if column else "left", no_wrap=not column)
    for name in results["arms"]:
        made.add_row(*cells(results, name), style="bold" if name == LRPET else None)
    return made


def markdown(results: dict[str, Any]) -> list[str]:
    """Return the table as lines for a README."""
    head = [column.replace("-\n", "-").replace("\n", " ") for column in HEAD]
    rows = [head, ["---"] * len(head), *(cells(results, name) for name in results["arms"])]
    return [f"| {' | '.join(row)} |" for row in rows]


def verdict(results: dict[str, Any]) -> str:
    """Return in words what the compact network costs, takes and loses, and whether it is faster at all."""
    dense, compact = (measured(results, name, "onnxruntime") for name in (DENSE, LRPET))
    ratio = compact["time_ratio"]
    if compact["milliseconds"] < dense["quartiles"][0]:
        speed = f"takes {ratio:.0%} of the time in ONNX Runtime ({1 / ratio:.1f} times as fast)"
    else:
        speed = f"is NOT faster here: it takes {ratio:.0%} of the time in ONNX Runtime"
    changed = gained(results, LRPET)
    doubts = [said for said in results["bench"]["verdicts"] if "may have been running" in said]
    return " ".join(
        [
            f"Verdict: with {compact['cost_ratio']:.0%} of the multiply-adds, the compact network {speed} and",
            f"{'loses' if changed < 0 else 'gains'} {abs(changed):.1f} points of accuracy. An SVD of the dense network "
            f"loses {-gained(results, SVD):.1f}, or {-gained(results, SVD_BN):.1f} with batch norm "
            f"re-estimated; cut half-way and trained on, {-gained(results, RETRAINED):.1f}.",
            *doubts,
        ]
    )


def gained(results: dict[str, Any], name: str) -> float:
    """Return the points of accuracy by which a network is ahead of the dense one."""
    points: float = results["arms"][name]["accuracy"] - results["arms"][DENSE]["accuracy"]
    return 100 * points


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw accuracy over training, and beside it accuracy against time. Both have the logarithm of the error as scale."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    fonts: dict[Any, Any] = {
        "font.size": 10.5,
        "axes.titlelocation": "left",
        "axes.titlesize": 11,
        "svg.hashsalt": "lrpet",
    }
    with plt.rc_context({**fonts, "axes.spines.top": False, "axes.spines.right": False}):
        figure, (left, right) = plt.subplots(
            1, 2, sharey=True, figsize=(11, 5.2), layout="constrained", width_ratios=(1.15, 1)
        )
        figure.suptitle(headline(results), x=0.01, ha="left", weight="bold", fontsize=14)
        seen = [point[1] for arm in results["arms"].values() for point in arm["curve"]]
        seen += [arm[part] for arm in results["arms"].values() for part in ("accuracy", "validation")]
        shown = [tick for tick in (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99) if tick > min(seen) - 0.1]
        left.set_yscale("log")
        left.set_ylim(min(1.0, 1.5 * (1 - min(seen))), max(0.005, (1 - max(seen)) / 2.6))  # good is up
        left.set_yticks([1 - tick for tick in shown], [f"{tick:.0%}" for tick in shown])
        left.minorticks_off()
        draw_training(left, results)
        draw_times(right, results)
        for axes in (left, right):
            axes.grid(alpha=0.25)
        figure.savefig(path, dpi=130, metadata={"Date": None} if path.suffix == ".svg" else None)
        plt.close(figure)


def headline(results: dict[str, Any]) -> str:
    compact = measured(results, LRPET, "onnxruntime")
    changed = gained(results, LRPET)
    return (
        f"{compact['cost_ratio']:.0%} of the multiply-adds, {compact['time_ratio']:.0%} of the time, "
        f"{abs(changed):.1f} points of accuracy {'lost' if changed < 0 else 'gained'}"
    )


def draw_training(axes: Any, results: dict[str, Any]) -> None:
    """Draw validation accuracy over the steps: where projections begin, and what an SVD does half-way and at the end."""
    arms, steps = results["arms"], results["settings"]["steps"]
    first = results["settings"]["start"] * steps
    axes.axvspan(first, steps, color=COLOURS[LRPET], alpha=0.07, linewidth=0)
    axes.text(1.03 * first, 0.975, "LRPET: from here on it is projected\nonto low rank every 5 steps,\nand goes on training",
              transform=axes.get_xaxis_transform(), color=COLOURS[LRPET], va="top")  # fmt: skip
    for name in (DENSE, RETRAINED, LRPET):
        points = [(step, 1 - value) for step, value in arms[name]["curve"]]
        axes.plot(*zip(*points, strict=True), color=COLOURS[name], label=name, linewidth=2.6 if name == LRPET else 1.6)
    fall = [1 - arms[DENSE]["validation"], 1 - arms[SVD]["validation"]]
    axes.plot([steps, steps], fall, ":", color=COLOURS[SVD], linewidth=1.8, clip_on=False)
    axes.plot(steps, fall[1], "o", color=COLOURS[SVD], clip_on=False)
    axes.annotate("dense, cut by SVD", (steps, fall[1]), (-9, 0), textcoords="offset points", ha="right", va="center",
                  color=COLOURS[SVD])  # fmt: skip
    axes.set(title="While training, on validation images", xlabel="training step", xlim=(0, steps), ylabel="accuracy")
    axes.legend(loc="upper left", frameon=False)


def draw_times(axes: Any, results: dict[str, Any]) -> None:
    """Draw test accuracy against the time in ONNX Runtime, and the way from the dense network to the compact one."""
    milliseconds = {name: measured(results, name, "onnxruntime")["milliseconds"] for name in results["arms"]}
    error = {name: 1 - arm["accuracy"] for name, arm in results["arms"].items()}
    way = {"arrowstyle": "-|>", "connectionstyle": "arc3,rad=0.22", "color": COLOURS[LRPET], "linewidth": 1.6}
    axes.annotate("", (milliseconds[LRPET], error[LRPET]), (milliseconds[DENSE], error[DENSE]),
                  arrowprops={**way, "shrinkA": 8, "shrinkB": 8})  # fmt: skip
    axes.text(0.58, 0.86, f"{milliseconds[DENSE] / milliseconds[LRPET]:.1f}× as fast", transform=axes.transAxes,
              color=COLOURS[LRPET], ha="center", weight="bold", fontsize=12)  # fmt: skip
    heights = apart({name: value for name, value in error.items() if name != DENSE}, axes.get_ylim())
    beside = 0.035 * max(milliseconds.values())
    for name, at in milliseconds.items():
        bold = name == LRPET
        axes.plot(at, error[name], "o", color=COLOURS[name], markersize=11 if bold else 8, clip_on=False)
        place: dict[str, Any] = {"textcoords": "offset points", "xytext": (0, -15), "ha": "center"}
        if name != DENSE:
            place = {"xytext": (at + beside, heights[name])}
        axes.annotate(f"{name} {1 - error[name]:.1%}", (at, error[name]), va="center", color=COLOURS[name],
                      weight="bold" if bold else "normal", **place)  # fmt: skip
    batch = results["settings"]["timed_batch"]
    axes.set(title="At the end, on test images", xlabel=f"milliseconds for {batch} images in ONNX Runtime",
             xlim=(0, 1.12 * max(milliseconds.values())))  # fmt: skip


def apart(errors: dict[str, float], limits: tuple[float, float]) -> dict[str, float]:
    """Return where labels go: at these errors, and on the logarithmic axis far enough below each other to be read."""
    gap = (limits[0] / limits[1]) ** 0.045
    places: dict[str, float] = {}
    lowest = 0.0
    for name in sorted(errors, key=lambda each: errors[each]):
        places[name] = lowest = max(errors[name], gap * lowest)
    return places
