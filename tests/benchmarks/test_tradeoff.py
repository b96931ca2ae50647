"""Accuracy against time: every method is within its budget, and the picture shows them all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import lrpet
from benchmarks import tradeoff

METHODS = (
    tradeoff.DENSE,
    tradeoff.LRPET,
    tradeoff.RETRAINED,
    tradeoff.FACTORS,
    tradeoff.PRUNED,
    tradeoff.SVD_BN,
)


def test_every_method_is_within_its_budget() -> None:
    settings = replace(tradeoff.demo.Settings(), width=16, steps=20, batch_size=16)
    found = tradeoff.networks(tradeoff.Digits.load(), settings, [0.4])
    assert list(found) == [(tradeoff.DENSE, 1.0), *((method, 0.4) for method in METHODS[1:])]
    macs = {
        name: lrpet.plan(network, tradeoff.demo.EXAMPLE, ranks={}).macs_dense for (name, _), network in found.items()
    }
    dense = macs.pop(tradeoff.DENSE)
    assert all(0.25 * dense < each <= 0.4 * dense for each in macs.values())


def test_the_picture_shows_means_of_all_methods(tmp_path: Path) -> None:
    rows = [
        {"method": method, "budget": budget, "seed": seed, "accuracy": 0.9 + 0.02 * seed, "milliseconds": 4 * budget}
        for method in METHODS
        for budget in ((1.0,) if method == tradeoff.DENSE else (0.5, 0.25))
        for seed in (0, 1)
    ]
    results = {"rows": rows, "seed": [0, 1], "timed_batch": 64}
    expected = {"milliseconds": 1.0, "accuracy": 0.91, "deviation": 0.02 / 2**0.5}
    assert tradeoff.means(results)[tradeoff.LRPET, 0.25] == pytest.approx(expected)
    lines = tradeoff.table(results)
    assert lines[0] == "| method | 50% of the multiply-adds | 25% of the multiply-adds |"
    assert "| LRPET | **91.0 ± 1.4 %, 2.00 ms** | **91.0 ± 1.4 %, 1.00 ms** |" in lines
    assert len(lines) == 2 + len(METHODS) - 1
    tradeoff.draw(results, tmp_path / "picture.svg")
    assert (tmp_path / "picture.svg").stat().st_size > 10_000
