"""What the accuracy harness stores, and what its report says of it."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from benchmarks.accuracy import report
from benchmarks.accuracy.run import Cell
from benchmarks.accuracy.store import Store
from benchmarks.script import spread

ROOT = Path(__file__).parents[2]
CELL = ("model", "data", "method", "keep", "epochs", "seed")


def made_up(method: str, seed: int, accuracy: float, keep: float | None, cpu: str = "Abacus") -> dict[str, Any]:
    projections = ([10, 20], [0.1, 0.01], [0.4, 0.02]) if method == "every_5_from_half" else ([], [], [])
    return {
        **{"model": "net", "data": "set", "method": method, "keep": keep, "epochs": 3, "seed": seed},
        **{"macs": 40e6 if keep else 100e6, "macs_dense": 100e6, "params": 3000, "test_accuracy": accuracy - 0.01},
        "test_accuracy_bn_reestimated": accuracy,
        "hardware": {"cpu": cpu, "threads": 1, "gpu": None},
        "versions": {"torch": "2.14.1"},
        "curve": {"epoch": [1, 2, 3], "val_accuracy": [0.3, 0.6, 0.9]},
        "pruned": dict(zip(("step", "lr", "pruned"), projections, strict=True)),
    }


# ── the results ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_adding_at_once_loses_nothing(tmp_path: Path) -> None:
    """Each opens the folder for itself, as a process of its own would, so that the lock is the one between processes."""

    def add(first: int) -> None:
        for seed in range(first, first + 12):
            Store(tmp_path).add(made_up("every_5_from_half", seed, 0.9, 0.4))

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(add, (0, 6, 12)))  # half of each one's seeds are another's too
    names = [f"net-set-every_5_from_half-0.4-3-{seed}" for seed in sorted(range(24), key=str)]
    assert [Cell(**{key: row[key] for key in CELL}).name for row in Store(tmp_path).read()] == names
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["accuracy-curves.jsonl", "accuracy.jsonl"]


def test_a_result_is_added_once_and_read_back(tmp_path: Path) -> None:
    store, first = Store(tmp_path), made_up("every_5_from_half", 0, 0.9, 0.4)
    store.add(first)
    store.add({**first, "test_accuracy": 0.1})
    assert store.read() == [first]
    lines = (tmp_path / "accuracy.jsonl").read_text()
    assert "curve" not in json.loads(lines)
    (tmp_path / "accuracy.jsonl").write_text(lines + lines)
    with pytest.raises(ValueError, match=r"two lines for net-set-every_5_from_half-0\.4-3-0"):
        store.read()


def test_a_result_whose_writing_was_cut_off_is_added_again(tmp_path: Path) -> None:
    """Curves are written first: alone they do not count, and scalars without them are refused."""
    store, first = Store(tmp_path), made_up("every_5_from_half", 0, 0.9, 0.4)
    store.add(first)
    (tmp_path / "accuracy.jsonl").unlink()
    assert store.read() == []
    second = {**first, "curve": {"epoch": [1], "val_accuracy": [1 / 3]}}
    store.add(second)
    assert store.read() == [{**second, "curve": {"epoch": [1], "val_accuracy": [0.333333]}}]
    (tmp_path / "accuracy-curves.jsonl").unlink()
    with pytest.raises(ValueError, match=r"lacks the curves of net-set-every_5_from_half-0\.4-3-0"):
        store.read()


# ── the report ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_committed_page_is_the_generated_one() -> None:
    page = (ROOT / "RESULTS.md").read_text(encoding="utf-8")
    assert page == report.page(ROOT / "benchmarks" / "results")
    shown = {line.split("(")[1].rstrip(")") for line in page.splitlines() if line.startswith("![")}
    drawn = {path.relative_to(ROOT).as_posix(): path for path in (ROOT / "benchmarks" / "figures").iterdir()}
    assert drawn.keys() == shown
    assert all(path.read_text(encoding="utf-8").startswith("<?xml") for path in drawn.values())


def test_a_report_of_made_up_results(tmp_path: Path) -> None:
    folder = tmp_path / "benchmarks" / "results"
    for result in [
        made_up("every_5_from_half", 0, 0.90, 0.4),
        made_up("every_5_from_half", 1, 0.92, 0.4),
        made_up("factors", 1, 0.89, 0.4),
        made_up("dense", 0, 0.95, None),
    ]:
        Store(folder).add(result)
    words = ["--results", str(folder), "--page", str(tmp_path / "RESULTS.md")]
    report.main(words)
    page = (tmp_path / "RESULTS.md").read_text()
    assert "| dense (not compact) | 1 | 100.00 M (100%) | 3 k | 94.00 | 95.00 | +5.00 |" in page
    assert "| LRPET (every 5 steps from half on) | 2 | 40.00 M (40%) | 3 k | 90.00 ± 1.41 | 91.00 ± 1.41 | – |" in page
    assert "| factors from scratch | 1 | 40.00 M (40%) | 3 k | 88.00 | 89.00 | -3.00 |" in page  # against the same seed
    figures = sorted(path.name for path in (tmp_path / "benchmarks" / "figures").iterdir())
    assert figures == ["curves-net-set-3.svg", "methods-net-set-3.svg", "pruned-net-set-3.svg"]
    assert not [figure for figure in figures if figure not in page]
    drawn = {path: path.read_bytes() for path in (tmp_path / "benchmarks" / "figures").iterdir()}
    report.main(words)
    assert all(path.read_bytes() == content for path, content in drawn.items())  # the same results, the same bytes


def test_machines_are_not_mixed_in_silence() -> None:
    one = [made_up("every_5_from_half", 0, 0.90, 0.4), made_up("factors", 0, 0.89, 0.4)]
    assert report.table(one, 0.4)[-1].startswith("Computed on Abacus, PyTorch 2.14.1. The last column")
    other = made_up("factors", 1, 0.89, 0.4, cpu="Slide rule")
    lines = report.table([*one, other], 0.4)
    assert lines[-1].startswith("Computed on a: Abacus, PyTorch 2.14.1; b: Slide rule, PyTorch 2.14.1. ")
    assert [line.split(" | ")[0] for line in lines[2:4]] == [
        "| LRPET (every 5 steps from half on) (a)", "| factors from scratch (a, b)",
    ]  # fmt: skip


def test_a_report_of_nothing(tmp_path: Path) -> None:
    assert "no results of the accuracy harness yet" in report.page(tmp_path)


def test_the_verdicts_quote_the_results() -> None:
    """Every accuracy in them is in a table of the page, or is that of one run, or of several on held-out images."""
    text = " ".join(report.VERDICTS.read_text(encoding="utf-8").split())
    verdicts = re.sub(r"keep [\d.]+\d|arXiv [\d.]+", "", text)
    results = report.read(ROOT / "benchmarks" / "results")
    tables = "\n".join(
        line for line in report.page(ROOT / "benchmarks" / "results").splitlines() if line.startswith("|")
    )
    single = {f"{100 * result[key]:.2f}" for result in results for key in ("val_accuracy", "test_accuracy")}
    held_out = defaultdict(list)
    for result in results:
        key = tuple(result[name] for name in ("model", "data", "epochs", "keep", "method"))
        held_out[key].append(result["val_accuracy"])
    quoted = re.findall(r"[+-]?\d+\.\d\d(?: ± \d\.\d\d)?", verdicts)
    assert len(quoted) > 10
    differences = {
        report.against([r for r in results if (r["method"], r["keep"]) == (method, 0.38)], leading, "test_accuracy")
        for leading in [[r for r in results if (r["method"], r["keep"]) == (report.LEADING[0], 0.38)]]
        for method in report.TITLES
    }
    known = single | differences | {spread(values) for values in held_out.values()}
    assert [figure for figure in quoted if not (figure in tables or figure in known)] == []
