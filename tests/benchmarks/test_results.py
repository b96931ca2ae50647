"""Every number the README quotes is in a committed result."""

from __future__ import annotations

import itertools
import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks import coverage_report, language_report, sharding_report, speed_report
from benchmarks.accuracy import report

ROOT = Path(__file__).parents[2]
PROVENANCE = {"command", "commit", "hardware", "versions", "seed"}
README = (ROOT / "README.md").read_text(encoding="utf-8")


def result(name: str) -> Any:
    return json.loads((ROOT / "benchmarks" / "results" / name).read_text(encoding="utf-8"))


def test_results_say_where_they_come_from() -> None:
    files = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
    assert files
    for file in files:
        assert result(file.name).keys() >= PROVENANCE, file
    for row in report.read(ROOT / "benchmarks" / "results"):
        assert row.keys() >= {*PROVENANCE, "settings"}, row["command"]


def test_cifar10_on_a_cpu() -> None:
    run = result("cifar10-resnet20-cpu.json")
    figures = [
        f"{run['epochs']} epochs",
        f"{100 * run['test_accuracy']:.2f} %",
        f"{100 * run['macs'] / run['macs_dense']:.0f} % of the multiply-adds",
        f"{run['cpu_milliseconds_of_64']:.0f} ms for 64 images, against {run['cpu_milliseconds_of_64_dense']:.0f} ms",
    ]
    assert all(figure in README for figure in figures), figures


def test_projection_table() -> None:
    for name, row in result("projection-cpu.json")["sets"].items():
        times = row["milliseconds"]
        figures = [name, *(f"{times[key]:.1f}" for key in ("svd", "cold", "warm", "products"))]
        line = f"| {' | '.join(figures)} | {row['speedup_over_svd']['cold']:.1f}× | {row['speedup_over_svd']['warm']:.1f}× |"
        assert line in README, line


def test_share_of_training_time() -> None:
    for case in result("training-share-cpu.json")["cases"].values():
        assert f"{100 * case['share']:.4f} %" in README
        projection, step = case["seconds_a_projection"], case["seconds_a_step"]
        assert f"{100 * projection / (5 * step + projection):.2f} %" in README


def test_recording_of_singular_values() -> None:
    page = (ROOT / "docs" / "report.md").read_text(encoding="utf-8")
    networks = result("recording-cpu.json")["networks"]
    seconds = {name: each["processor_seconds_a_moment"] for name, each in networks.items()}
    assert f"{seconds['resnet20']:.3f} s of one core for ResNet-20" in page
    assert f"{seconds['torchvision:resnet50']:.2f} s for ResNet-50" in page
    assert {f"at {each['moments']} moments or fewer" in page for each in networks.values()} == {True}


def test_the_small_language_model() -> None:
    """What README and RESULTS.md say of it holds at every seed."""
    lines = (ROOT / "benchmarks" / "results" / language_report.FILE).read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert all(row.keys() >= PROVENANCE for row in rows)
    by_arm = language_report.losses(rows)
    assert all(by_arm[arm].keys() == {0, 1, 2} for arm in language_report.TITLES)
    for seed in range(3):
        assert by_arm["projected"][seed] < min(by_arm[arm][seed] for arm in ("retrained", "scratch", "cut"))
        assert by_arm["dense"][seed] < by_arm["no_transfer"][seed] < by_arm["projected"][seed]
    means = {arm: f"{statistics.fmean(values.values()):.3f}" for arm, values in by_arm.items()}
    assert all(means[arm] in README for arm in ("dense", "projected", "no_transfer", "retrained", "scratch"))


def test_loaders() -> None:
    text = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    for measured in result("loading-cpu.json")["images_per_second"].values():
        assert all(f"{rate:.0f}" in text for rate in measured["median"].values())


def test_energy_of_friendly_ranks() -> None:
    rows = {(row["macs"], row["multiple_of"]): row["mean_kept"] for row in result("friendly-energy.json")["rows"]}
    for macs in (0.45, 0.25):
        assert all(f"{100 * rows[macs, multiple]:.1f} %" in README for multiple in ("auto", 1))


def test_speed_tables() -> None:
    for instructions in speed_report.INSTRUCTIONS:
        by_macs, by_time = speed_report.read(ROOT / "benchmarks" / "results", instructions)
        assert by_macs
        assert by_time
        assert "\n".join(speed_report.short_table(by_macs)) in README
    by_time = speed_report.read(ROOT / "benchmarks" / "results", "avx512")[1]
    assert "\n".join(speed_report.timed_table(by_time)) in README


def test_scaling() -> None:
    text, measured = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8"), result("sharding-cpu.json")
    assert "\n".join(sharding_report.measured_table(measured["measured"])) in text
    assert "\n".join(sharding_report.computed_table(measured["computed"])) in text


def test_demo_seeds() -> None:
    found = {
        name: f"{each['mean']:.1f} ± {each['deviation']:.1f}"
        for name, each in result("demo-seeds.json")["test_accuracy"].items()
    }
    dense, *others = found.values()
    assert f"dense {dense} %, LRPET " in README
    assert len(others) == 4
    assert all(f" {each}" in README for each in others)
    runs = result("demo-seeds.json")["runs"].values()
    ahead = [run["LRPET"]["accuracy"] - run["SVD half-way, retrained"]["accuracy"] for run in runs]
    assert f"by {100 * min(ahead):.2f}\nto {100 * max(ahead):.1f} points" in README


def test_quantised() -> None:
    rows = {
        (row["network"], row["numbers"]): row
        for row in result("quantised-resnet20.json")["rows"]
        if row["runtime"] == "onnxruntime"
    }
    for network in ("low-rank", "dense"):
        plain, quantised = rows[network, "float32"], rows[network, "int8"]
        accuracies = (100 * each["test_accuracy"] for each in (plain, quantised))
        assert "{:.2f} → {:.2f} %".format(*accuracies) in README
        slower = quantised["milliseconds_of_64"] / plain["milliseconds_of_64"]
        assert f"{slower:.2f} times" in README
        assert f"{quantised['bytes'] / 1e6:.2f} MB" in README


def test_exports() -> None:
    rows = result("exports.json")["rows"]
    assert len({(row["network"], row["format"]) for row in rows}) == 5 * 4 == len(rows)
    assert (
        f"errors of {max(row['error'] for row in rows):.1e} of the largest output at most".replace("e-0", "e-")
        in README
    )
    assert all(row["agreement"] == 1 for row in rows)


def test_accuracy_against_others() -> None:
    results = [row for row in report.read(ROOT / "benchmarks" / "results") if row["epochs"] == 12]
    for method in ("dense", report.LEADING[0], "svd_retrain", "factors"):
        rows = [row for row in results if row["method"] == method and row["keep"] in (None, 0.38)]
        assert report.spread([row["test_accuracy"] for row in rows]) in README, method
    accuracy = {(row["method"], row["keep"], row["seed"]): row["test_accuracy"] for row in results}
    assert "LRPET is ahead of both at every seed" in README
    for seed, rival in itertools.product((0, 1, 2), ("svd_retrain", "factors")):
        assert accuracy[report.LEADING[0], 0.38, seed] > accuracy[rival, 0.38, seed]
    few = {row["method"]: row for row in results if row["keep"] == 0.2}
    figures = [
        report.spread([few[method]["test_accuracy"]]) for method in (report.LEADING[0], "svd_retrain", "factors")
    ]
    assert f"{figures[0]}, {figures[1]} and {figures[2]} %" in README
    assert f"{few['svd_retrain']['macs'] / few['svd_retrain']['macs_dense']:.0%}".replace("%", " %") in README


def test_the_readme_counts_the_networks_that_were_tried() -> None:
    counted = sum(
        len(result(f"coverage-{library}.json")["models"]) for library in ("timm", "torchvision", "transformers")
    )
    assert f"lists {counted} of timm, torchvision and transformers" in README


def test_the_coverage_page_is_that_of_the_results() -> None:
    assert (ROOT / "COVERAGE.md").read_text(encoding="utf-8") == coverage_report.page()
