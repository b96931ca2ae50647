"""Every accuracy that README and documentation quote, and all else that the README's table says, is in a committed result."""

from __future__ import annotations

import itertools
from typing import Any

from benchmarks import tradeoff
from benchmarks.accuracy import report
from benchmarks.script import spread
from written import NUMBERS, README, RESULTS, page, result


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


def after_40_epochs(method: str, keep: float | None) -> list[dict[str, Any]]:
    """Return the results of ResNet-20 by seed: three, of one machine."""
    runs = report.read(RESULTS)
    wanted = ("resnet20", 40, method, keep)
    found = [row for row in runs if (row["model"], row["epochs"], row["method"], row["keep"]) == wanted]
    assert [row["seed"] for row in found] == [0, 1, 2]
    assert {row["hardware"]["gpu"] for row in found} == {"NVIDIA H200"}
    return found


def test_accuracy_against_others() -> None:
    titles = {
        "lead_best": "LRPET",
        "svd_retrain_best_plain": "SVD of the trained network, kernels and ranks of LRPET, retrained",
        "lead_base": "LRPET, k×k and 1×1",
        "svd_retrain": "SVD of the trained network, retrained",
        "svd_retrain_by_energy_plain": "SVD of the trained network, ranks by energy, retrained",
        "factors_frobenius": "factors from scratch, Frobenius decay",
        "pruning": "channels pruned, retrained",
    }
    as_published = ("svd_retrain", "svd_retrain_by_energy_plain", "factors_frobenius", "pruning")
    found = {(method, keep): after_40_epochs(method, keep) for method in titles for keep in (0.38, 0.2)}
    shares = {key: {f"{row['macs'] / row['macs_dense']:.2f}" for row in rows} for key, rows in found.items()}
    assert all(share <= ({"0.42", "0.41"} if keep == 0.38 else {"0.21", "0.20"}) for (_, keep), share in shares.items())
    written = {key: spread([row["test_accuracy"] for row in rows]) for key, rows in found.items()}
    for method, title in titles.items():
        cells = [written[method, keep] for keep in (0.38, 0.2)]
        bold = "**" if method == "lead_best" else ""
        assert f"| {title} | {' | '.join(f'{bold}{cell}{bold}' for cell in cells)} |" in NUMBERS
    dense = spread([row["test_accuracy"] for row in after_40_epochs("dense", None)])
    assert f"| dense, at 100 % | {dense} | |" in NUMBERS
    assert "LRPET is ahead of every rival that divides kernels as it is published to, at every seed." in NUMBERS
    for keep, method in itertools.product((0.38, 0.2), as_published):
        for ours, theirs in zip(found["lead_best", keep], found[method, keep], strict=True):
            assert ours["test_accuracy"] > theirs["test_accuracy"]


def test_accuracy_against_time() -> None:
    measured, text = result("tradeoff.json"), " ".join(NUMBERS.split())
    means = tradeoff.means(measured)
    assert "\n".join(tradeoff.table(measured)) in NUMBERS
    dense, ours = means[tradeoff.DENSE, 1.0], means[tradeoff.LRPET, 0.15]
    told = f"{100 * dense['accuracy']:.1f} ± {100 * dense['deviation']:.1f} % in {dense['milliseconds']:.2f} ms"
    assert f"The dense network comes to {told}" in text
    behind = f"{100 * (dense['accuracy'] - ours['accuracy']):.1f} points behind the dense network on average"
    assert f"{behind}, in {100 * ours['milliseconds'] / dense['milliseconds']:.0f} % of its time" in text
    for (_, budget), each in means.items():
        assert budget == 1 or each["accuracy"] <= means[tradeoff.LRPET, budget]["accuracy"]
    last = means[tradeoff.LRPET, 0.08]["milliseconds"]
    assert means[tradeoff.PRUNED, 0.08]["milliseconds"] < last
    assert f"below {last:.1f} ms they are the better choice" in text
    assert "(docs/images/tradeoff.svg)" in README


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

    methods = (("dense", None), ("lead_best", 0.38), ("svd_retrain", 0.38), ("svd_retrain_best_plain", 0.38))
    found = [after_40_epochs(*method) for method in methods]
    dense, ours, retrained, lent = (spread([row["test_accuracy"] for row in rows]) for rows in found)
    rivals = f"SVD and retraining {retrained} %, with lrpet's kernels and ranks {lent} %"
    assert f"| {dense} % | {ours} %; {rivals} | [`accuracy.jsonl`]" in README
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
