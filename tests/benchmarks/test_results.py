"""Every other number that README and documentation quote is in a committed result, and results say where they come from."""

from __future__ import annotations

from benchmarks import coverage_report, faults_report
from benchmarks.accuracy import report
from written import README, RESULTS, page, result

PROVENANCE = {"command", "commit", "hardware", "versions", "seed"}


def test_results_say_where_they_come_from() -> None:
    files = sorted(RESULTS.glob("*.json"))
    assert files
    for file in files:
        assert result(file.name).keys() >= PROVENANCE, file
    for row in report.read(RESULTS):
        assert row.keys() >= {*PROVENANCE, "settings"}, row["command"]


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


def test_the_networks_that_were_tried_are_counted() -> None:
    libraries = ("timm", "torchvision", "transformers")
    counted = sum(len(result(f"coverage-{library}.json")["models"]) for library in libraries)
    assert f"lists {counted} networks of timm, torchvision and transformers" in page("docs/limits.md").replace(
        "\n", " "
    )
    assert f"coverage of {counted} networks" in README
    assert f"coverage of {counted} networks" in page("docs/reproducing.md")


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
