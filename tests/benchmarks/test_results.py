"""Every number that README and documentation quote is in a committed result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks import coverage_report, faults_report, generation_report, sharding_report, speed_report, tradeoff
from benchmarks.accuracy import report
from benchmarks.script import spread

ROOT = Path(__file__).parents[2]
PROVENANCE = {"command", "commit", "hardware", "versions", "seed"}


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


README, NUMBERS = page("README.md"), page("docs/numbers.md")


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
    assert all(figure in NUMBERS for figure in figures), figures
    assert f"Eight epochs of ResNet-20 come to {figures[1]}" in page("docs/reproducing.md")


def test_a_language_model_on_a_cpu() -> None:
    run, text = result("stdlib-gpt-cpu.json"), " ".join(page("docs/text.md").split())
    ratio = run["cpu_milliseconds_of_8"] / run["cpu_milliseconds_of_8_dense"]
    assert f"It took {run['seconds']['training'] / 60:.1f} minutes" in text
    assert f"a test perplexity of {run['test_perplexity']:.3f} a byte" in text
    assert f"Eight windows take {100 * ratio:.0f} % of the dense model's time" in text


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
    scaling = " ".join((ROOT / "docs" / "scaling.md").read_text(encoding="utf-8").split())
    assert f"ResNet-20 takes {small['replayed']:.1f} ms in place of {small['warm']:.1f}" in scaling
    assert f"ResNet-50 takes {large['replayed']:.1f} ms in place of {large['warm']:.1f}" in scaling


def test_share_of_training_time() -> None:
    for case in result("training-share-cpu.json")["cases"].values():
        assert f"{100 * case['share']:.4f} %" in NUMBERS
        projection, step = case["seconds_a_projection"], case["seconds_a_step"]
        assert f"{100 * projection / (5 * step + projection):.2f} %" in NUMBERS


def test_recording_of_singular_values() -> None:
    page = (ROOT / "docs" / "report.md").read_text(encoding="utf-8")
    networks = result("recording-cpu.json")["networks"]
    seconds = {name: each["processor_seconds_a_moment"] for name, each in networks.items()}
    assert f"{seconds['resnet20']:.3f} s of one core for ResNet-20" in page
    assert f"{seconds['torchvision:resnet50']:.2f} s for ResNet-50" in page
    assert {f"at {each['moments']} moments or fewer" in page for each in networks.values()} == {True}


def test_loaders() -> None:
    text = page("docs/data.md")
    for measured in result("loading-cpu.json")["images_per_second"].values():
        assert all(f"{rate:.0f}" in text for rate in measured["median"].values())


def test_energy_of_friendly_ranks() -> None:
    rows = {(row["macs"], row["multiple_of"]): row["mean_kept"] for row in result("friendly-energy.json")["rows"]}
    for macs in (0.45, 0.25):
        assert all(f"{100 * rows[macs, multiple]:.1f} %" in NUMBERS for multiple in ("auto", 1))


def test_speed_tables() -> None:
    for instructions in speed_report.INSTRUCTIONS:
        by_macs, by_time = speed_report.read(ROOT / "benchmarks" / "results", instructions)
        assert by_macs
        assert by_time
        assert "\n".join(speed_report.short_table(by_macs)) in NUMBERS
    by_time = speed_report.read(ROOT / "benchmarks" / "results", "avx512")[1]
    assert "\n".join(speed_report.timed_table(by_time)) in NUMBERS


def test_what_the_division_of_kernels_is_worth() -> None:
    text = page("docs/method.md")
    rows = report.read(ROOT / "benchmarks" / "results")
    found = {
        method: [row for row in rows if (row["method"], row["epochs"], row["keep"]) == (method, 12, 0.2)]
        for method in ("lead_best", "lead_base")
    }
    written = {method: spread([row["test_accuracy"] for row in some]) for method, some in found.items()}
    assert f"at the end is {written['lead_best']} % in place of {written['lead_base']} %" in text
    kept = {method: [100 * (1 - row["pruned"]["pruned"][0]) for row in some] for method, some in found.items()}
    best, base = (f"{min(kept[method]):.0f} to {max(kept[method]):.0f} %" for method in found)
    assert f"keeps {best} of it in place of {base}" in text

    ratios: dict[str, list[float]] = {"onnxruntime": [], "openvino": []}
    for each in speed_report.read(ROOT / "benchmarks" / "results", "avx512")[0]:
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
    text, measured = (ROOT / "docs" / "huggingface.md").read_text(encoding="utf-8"), result(generation_report.FILE)
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


def test_demo_seeds() -> None:
    text = page("docs/quickstart.md")
    found = {
        name: f"{each['mean']:.1f} ± {each['deviation']:.1f}"
        for name, each in result("demo-seeds.json")["test_accuracy"].items()
    }
    dense, *others = found.values()
    assert f"dense {dense} %, LRPET " in text
    assert len(others) == 4
    assert all(f" {each}" in text for each in others)
    runs = result("demo-seeds.json")["runs"].values()
    ahead = [run["LRPET"]["accuracy"] - run["SVD half-way, retrained"]["accuracy"] for run in runs]
    assert f"by {100 * min(ahead):.2f} to {100 * max(ahead):.1f} points" in " ".join(text.split())


def test_the_demo_in_the_readme() -> None:
    demo = result("demo.json")
    times = {row["network"]: row["milliseconds"] for row in demo["bench"]["rows"] if row["runtime"] == "onnxruntime"}
    dense, compact = (f"{100 * demo['arms'][arm]['accuracy']:.1f} %, {times[arm]:.1f} ms" for arm in ("dense", "LRPET"))
    assert f"| {dense} | {compact} |" in README


def test_quantised() -> None:
    text = page("docs/deploying.md")
    rows = {
        (row["network"], row["numbers"]): row
        for row in result("quantised-resnet20.json")["rows"]
        if row["runtime"] == "onnxruntime"
    }
    for network in ("low-rank", "dense"):
        plain, quantised = rows[network, "float32"], rows[network, "int8"]
        accuracies = (100 * each["test_accuracy"] for each in (plain, quantised))
        assert "{:.2f} → {:.2f} %".format(*accuracies) in text
        slower = quantised["milliseconds_of_64"] / plain["milliseconds_of_64"]
        assert f"{slower:.2f} times" in text
        assert f"{quantised['bytes'] / 1e6:.2f} MB" in text


def test_exports() -> None:
    rows = result("exports.json")["rows"]
    assert len({(row["network"], row["format"]) for row in rows}) == 5 * 4 == len(rows)
    said = f"errors of {max(row['error'] for row in rows):.1e} of the largest output at most".replace("e-0", "e-")
    assert said in page("docs/deploying.md").replace("\n", " ")
    assert all(row["agreement"] == 1 for row in rows)


def after_40_epochs(method: str, keep: float | None) -> list[dict[str, Any]]:
    """Return the results of ResNet-20 by seed: three, of one machine."""
    runs = report.read(ROOT / "benchmarks" / "results")
    wanted = ("resnet20", 40, method, keep)
    found = [row for row in runs if (row["model"], row["epochs"], row["method"], row["keep"]) == wanted]
    assert [row["seed"] for row in found] == [0, 1, 2]
    assert {row["hardware"]["gpu"] for row in found} == {"NVIDIA H200"}
    return found


def test_accuracy_against_others() -> None:
    titles = {
        "lead_base": "LRPET",
        "svd_retrain": "SVD of the trained network, retrained",
        "svd_retrain_by_energy": "SVD of the trained network, ranks by energy, retrained",
        "factors_frobenius": "factors from scratch, Frobenius decay",
    }
    found = {(method, keep): after_40_epochs(method, keep) for method in titles for keep in (0.38, 0.2)}
    assert {f"{row['macs'] / row['macs_dense']:.2f}" for rows in found.values() for row in rows} == {"0.42", "0.21"}
    written = {key: spread([row["test_accuracy"] for row in rows]) for key, rows in found.items()}
    for method, title in titles.items():
        assert f"| {title} | {written[method, 0.38]} | {written[method, 0.2]} |" in NUMBERS
    dense = spread([row["test_accuracy"] for row in after_40_epochs("dense", None)])
    assert f"| dense, at 100 % | {dense} | |" in NUMBERS
    assert "LRPET is ahead of factors from scratch at every seed." in NUMBERS
    for keep in (0.38, 0.2):
        for ours, theirs in zip(found["lead_base", keep], found["factors_frobenius", keep], strict=True):
            assert ours["test_accuracy"] > theirs["test_accuracy"]


def test_accuracy_against_time() -> None:
    measured, text = result("tradeoff.json"), " ".join(NUMBERS.split())
    means = tradeoff.means(measured)
    assert "\n".join(tradeoff.table(measured)) in NUMBERS
    dense, half = means[tradeoff.DENSE, 1.0], means[tradeoff.LRPET, 0.5]
    told = f"{100 * dense['accuracy']:.1f} ± {100 * dense['deviation']:.1f} % in {dense['milliseconds']:.2f} ms"
    assert f"The dense network comes to {told}" in text
    assert f"in {100 * half['milliseconds'] / dense['milliseconds']:.0f} % of its time" in text
    assert f"{half['accuracy']:.3f}" == f"{dense['accuracy']:.3f}"
    for (_, budget), each in means.items():
        assert budget == 1 or each["accuracy"] <= means[tradeoff.LRPET, budget]["accuracy"]
    last = means[tradeoff.LRPET, 0.15]["milliseconds"]
    assert means[tradeoff.PRUNED, 0.15]["milliseconds"] < last
    assert f"below {last:.1f} ms they are the better choice" in text
    assert "(docs/images/tradeoff.svg)" in README


def test_the_networks_that_were_tried_are_counted() -> None:
    libraries = ("timm", "torchvision", "transformers")
    counted = sum(len(result(f"coverage-{library}.json")["models"]) for library in libraries)
    assert f"lists {counted} networks of timm, torchvision and transformers" in page("docs/limits.md").replace(
        "\n", " "
    )
    assert f"coverage of {counted} networks" in README
    assert f"coverage of {counted} networks" in page("docs/reproducing.md")


def test_the_three_numbers_of_the_readme() -> None:
    demo = result("demo.json")
    told = []
    for name in ("dense", "LRPET"):
        rows = demo["bench"]["rows"]
        row = next(row for row in rows if (row["network"], row["runtime"]) == (name, "onnxruntime"))
        told.append(f"{100 * demo['arms'][name]['accuracy']:.1f} %, {row['milliseconds']:.1f} ms")
    images, macs = demo["settings"]["timed_batch"], demo["settings"]["macs"]
    assert f"| digits, {100 * macs:.0f} % of the multiply-adds: accuracy, and time of {images} images" in README
    assert f"| {' | '.join(told)} | [`demo.json`]" in README

    methods = (("dense", None), ("lead_base", 0.38), ("svd_retrain", 0.38))
    found = [after_40_epochs(*method) for method in methods]
    dense, ours, retrained = (spread([row["test_accuracy"] for row in rows]) for rows in found)
    assert f"| {dense} % | {ours} %; SVD and retraining {retrained} % | [`accuracy.jsonl`]" in README
    assert {f"{row['macs'] / row['macs_dense']:.2f}" for rows in found[1:] for row in rows} == {"0.42"}
    assert "ResNet-20 on CIFAR-10, 40 epochs, 42 % of the multiply-adds: accuracy of three seeds" in README

    wanted = ("macs=0.45", "onnxruntime", 16)
    rows = result("speed-resnet50-avx512.json")["rows"]
    (row,) = [row for row in rows if (row["network"], row["runtime"], row["batch_size"]) == wanted]
    assert "| ResNet-50, 45 % of the multiply-adds: time of 16 images in ONNX Runtime" in README
    assert f"| 1 | {row['time_ratio']:.2f} | [`speed-resnet50-avx512.json`]" in README


def test_what_the_pages_say_of_the_spectrum() -> None:
    found, text = result("spectrum.json"), page("docs/method.md")
    (first, most), (_, second), *_, (_, last) = found["pruned"]
    assert f"at step {first} of {found['steps']}, prunes {100 * most:.0f} % of the layer's energy" in text
    assert f"of {len(found['spectra'][0]['before'])} singular values, {found['rank']} of which are kept" in text
    rank, (start, early, end) = found["rank"], found["spectra"]
    assert f"at step {early['step']}" in text
    assert start["after"][rank - 1] > start["before"][rank - 1]
    assert start["after"][rank] < 1e-5
    assert early["before"][rank] < early["before"][rank - 1] / 20
    assert end["before"][rank] < end["before"][rank - 1] / 1e5
    assert second < 1e-3
    assert last < 1e-9


def test_the_least_time_of_mobilenet() -> None:
    by_time = speed_report.read(ROOT / "benchmarks" / "results", "avx512")[1]
    budgets = [line.split("|")[4].strip() for line in speed_report.timed_table(by_time) if "| MobileNetV2 |" in line]
    assert f"MobileNetV2 at best came to {min(budgets)} of the time" in page("docs/index.md").replace("\n", " ")


def test_faults() -> None:
    text, loops = page("docs/reliability.md"), result("faults.json")["loops"]
    assert "\n".join(faults_report.table(loops)) in text
    assert [text.count(f"| `{name}` |") for name in loops] == [2] * 8  # what it does, and what it came to
    assert all(loop["done"] and loop["passed"] for loop in loops.values())
    assert all(loop.get("cases", 0) >= loop.get("planned", 0) for loop in loops.values())
    minutes = sum(loop["seconds"] for loop in loops.values()) / 60
    assert f"{minutes:.0f}" == "9"
    assert "in nine minutes on two idle cores" in text


def test_the_coverage_page_is_that_of_the_results() -> None:
    assert page("COVERAGE.md") == coverage_report.page()
