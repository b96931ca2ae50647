"""Every time, and every energy that projections keep, which README and documentation quote, is in a committed result."""

from __future__ import annotations

import re
import statistics
from typing import Any

from benchmarks import generation_report, sharding_report, speed_report
from benchmarks.accuracy import report
from benchmarks.script import spread
from written import NUMBERS, RESULTS, page, result


def test_projection_table() -> None:
    for name, row in result("projection-cpu.json")["sets"].items():
        times = row["milliseconds"]
        figures = [name, *(f"{times[key]:.1f}" for key in ("svd", "cold", "warm", "products"))]
        line = f"| {' | '.join(figures)} | {row['speedup_over_svd']['cold']:.1f}× | {row['speedup_over_svd']['warm']:.1f}× |"
        assert line in NUMBERS, line


def test_projection_table_of_a_gpu() -> None:
    found = result("projection-h200.json")["sets"]
    for name, row in found.items():
        times, gained = row["milliseconds"], row["speedup_over_svd"]
        figures = [name, *(f"{times[key]:.1f}" for key in ("svd", "cold", "warm", "replayed", "products"))]
        line = f"| {' | '.join(figures)} | {gained['warm']:.1f}× | {gained['replayed']:.1f}× |"
        assert line in NUMBERS, line
    small, large = (found[name]["milliseconds"] for name in ("resnet20", "resnet50"))
    scaling = " ".join(page("docs/scaling.md").split())
    assert f"ResNet-20 takes {small['replayed']:.1f} ms in place of {small['warm']:.1f}" in scaling
    assert f"ResNet-50 takes {large['replayed']:.1f} ms in place of {large['warm']:.1f}" in scaling


def test_share_of_training_time() -> None:
    for case in result("training-share-cpu.json")["cases"].values():
        assert f"{100 * case['share']:.4f} %" in NUMBERS
        projection, step = case["seconds_a_projection"], case["seconds_a_step"]
        assert f"{100 * projection / (5 * step + projection):.2f} %" in NUMBERS


def test_recording_of_singular_values() -> None:
    text = page("docs/report.md")
    networks = result("recording-cpu.json")["networks"]
    seconds = {name: each["processor_seconds_a_moment"] for name, each in networks.items()}
    assert f"{seconds['resnet20']:.3f} s of one core for ResNet-20" in text
    assert f"{seconds['torchvision:resnet50']:.2f} s for ResNet-50" in text
    assert {f"at {each['moments']} moments or fewer" in text for each in networks.values()} == {True}


def test_loaders() -> None:
    text = page("docs/data.md")
    for measured in result("loading-cpu.json")["images_per_second"].values():
        assert all(f"{rate:.0f}" in text for rate in measured["median"].values())


def test_energy_of_friendly_ranks() -> None:
    rows = {(row["macs"], row["multiple_of"]): row["mean_kept"] for row in result("friendly-energy.json")["rows"]}
    for macs in (0.45, 0.25):
        assert all(f"{100 * rows[macs, multiple]:.1f} %" in NUMBERS for multiple in ("auto", 1))


def test_speed_tables() -> None:
    for processor in speed_report.PROCESSORS:
        by_macs, by_time = speed_report.read(RESULTS, processor)
        assert by_macs
        assert bool(by_time) == (processor != "h200")
        assert "\n".join(speed_report.short_table(by_macs)) in NUMBERS
    by_time = speed_report.read(RESULTS, "avx512")[1]
    assert "\n".join(speed_report.timed_table(by_time)) in NUMBERS


def test_a_gpu_gains_nothing() -> None:
    rows = [row for each in speed_report.read(RESULTS, "h200")[0] for row in each["rows"] if row["network"] != "dense"]
    assert min(row["time_ratio"] for row in rows) > 1
    deep = [row for row in result("speed-resnet50-h200.json")["rows"] if "any rank" in row["network"]]
    ratios = [row["time_ratio"] for row in deep]
    assert f"without them ResNet-50 takes {min(ratios):.2f} to {max(ratios):.2f} of the dense network's time" in NUMBERS


def of_division(epochs: int) -> dict[str, list[dict[str, Any]]]:
    """Return the results of ResNet-20 at 21 % of the multiply-adds, by how kernels are divided."""
    rows = report.read(RESULTS)
    methods = ("lead_best", "lead_base")
    return {
        name: [row for row in rows if (row["method"], row["epochs"], row["keep"]) == (name, epochs, 0.2)]
        for name in methods
    }


def test_what_tucker_keeps() -> None:
    rows = result("divisions-resnet20-cifar10.json")["rows"]
    text = " ".join(page("docs/method.md").split())
    for budget in (0.21, 0.42):
        tucker, spatial = (
            statistics.mean(row["kept"] for row in rows if (row["budget"], row["division"]) == (budget, division))
            for division in ("tucker", "spatial")
        )
        assert re.search(
            rf"{100 * tucker:.1f} %[^,;]* against {100 * spatial:.1f} % at {budget:.0%}".replace("%", " ?%"), text
        )


def test_what_the_division_of_kernels_is_worth() -> None:
    text, found = " ".join(page("docs/method.md").split()), of_division(12)
    kept = {method: [100 * (1 - row["pruned"]["pruned"][0]) for row in some] for method, some in found.items()}
    best, base = (f"{min(each):.0f} to {max(each):.0f} %" for each in kept.values())
    assert f"keeps {best} of it in place of {base}" in text
    best, base = (spread([row["test_accuracy"] for row in some]) for some in of_division(40).values())
    assert f"after 40 epochs is {best} % in place of {base} %" in text

    ratios: dict[str, list[float]] = {"onnxruntime": [], "openvino": []}
    for each in speed_report.read(RESULTS, "avx512")[0]:
        times = {(row["network"], row["runtime"], row["batch_size"]): row["milliseconds"] for row in each["rows"]}
        for (network, *where), time in times.items():
            if (other := times.get((f"{network}, k×k and 1×1", *where))) is not None:
                ratios[where[0]].append(other / time)
    told = [f"{min(values):.2f} to {max(values):.2f} of" for values in ratios.values()]
    assert f"networks take {told[0]} these times in ONNX Runtime and {told[1]} them in OpenVINO" in " ".join(
        NUMBERS.split()
    )


def test_scaling() -> None:
    text, measured = page("docs/scaling.md"), result("sharding-cpu.json")
    assert "\n".join(sharding_report.measured_table(measured["measured"])) in text
    assert "\n".join(sharding_report.computed_table(measured["computed"])) in text


def test_generation() -> None:
    text, measured = page("docs/huggingface.md"), result(generation_report.FILE)
    assert "\n".join(generation_report.speed_table(measured)) in text
    assert "\n".join(generation_report.memory_table(measured)) in text
    assert "\n".join(generation_report.gains_table(measured)) in text
    rows = [row for size in measured["sizes"].values() for row in size["rows"] if row["dtype"] == "float32"]
    prompts = [row["realised"] for row in rows if row["phase"] == "prompt" and row["runtime"] != "optimized"]
    assert min(prompts) > 0.5  # what the page calls most of the cut
    compact: dict[str, list[float]] = {row["runtime"]: [] for row in rows}
    for row in rows:
        compact[row["runtime"]].append(row["tokens_per_second"]["compact"])
    fastest = compact.pop("onnxruntime")
    assert all(speed > max(others) for speed, *others in zip(fastest, *compact.values(), strict=True))
    assert all(size["largest_difference"] < 1e-4 for size in measured["sizes"].values())


def test_the_least_time_of_mobilenet() -> None:
    by_time = speed_report.read(RESULTS, "avx512")[1]
    budgets = [line.split("|")[4].strip() for line in speed_report.timed_table(by_time) if "| MobileNetV2 |" in line]
    assert f"MobileNetV2 at best came to {min(budgets)} of the time" in page("docs/index.md").replace("\n", " ")
