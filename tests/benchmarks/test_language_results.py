"""What the pages say of the language models holds in the rows that were measured."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import language_report

ROOT = Path(__file__).parents[2]
ROWS = language_report.read(ROOT / "benchmarks" / "results")
PROVENANCE = {"command", "commit", "hardware", "versions", "seed"}
SEEDS = range(3)
#: The arms in docs/numbers.md.
SHOWN = ("dense", "projected", "no_transfer", "retrained", "frobenius", "pat")
Losses = dict[str, dict[int, float]]


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


NUMBERS = page("docs/numbers.md")


def of_width(hidden: int) -> list[dict[str, Any]]:
    return [row for row in ROWS if row["hidden"] == hidden]


def means_of(losses: Losses) -> dict[str, float]:
    return {arm: statistics.fmean(values.values()) for arm, values in losses.items()}


def is_ahead(losses: Mapping[str, Mapping[int, float]], first: str, second: str) -> bool:
    """Tell whether one arm is ahead of another at every seed."""
    return all(losses[first][seed] < losses[second][seed] for seed in losses[first])


def test_rows_say_where_they_come_from() -> None:
    assert all(row.keys() >= PROVENANCE for row in ROWS)


def test_the_small_language_model() -> None:
    """What docs/numbers.md and RESULTS.md say of it holds at every seed."""
    half, less = (language_report.losses(of_width(128), macs) for macs in (0.5, 0.3))
    for by_arm in (half, less):
        assert by_arm.keys() == language_report.TITLES.keys() - {"by_energy", "retrained_by_energy"}
        assert all(seeds.keys() == set(SEEDS) for seeds in by_arm.values())
        means = means_of(by_arm)
        assert sorted(means, key=means.__getitem__)[:2] == ["dense", "no_transfer"]
        assert all(f"{means[arm]:.3f}" in NUMBERS for arm in SHOWN)
    for seed in SEEDS:
        own = ("dense", "no_transfer", "projected", "outputs")
        rivals = [values[seed] for arm, values in half.items() if arm not in own]
        assert half["no_transfer"][seed] < min(half["projected"][seed], *rivals)
        added, less_added = (half[arm][seed] - half["dense"][seed] for arm in ("cut", "cut_by_outputs"))
        assert less_added < 0.75 * added
    lost, less_lost = (means_of(half)[arm] - means_of(half)["dense"] for arm in ("cut", "cut_by_outputs"))
    assert f"lost {1 - less_lost / lost:.0%} less so".replace("%", " %") in page("docs/huggingface.md")
    assert sum(less["no_transfer"][seed] < less["scratch"][seed] for seed in SEEDS) == 2
    harm = [
        statistics.fmean(by_arm["projected"][seed] - by_arm["no_transfer"][seed] for seed in SEEDS)
        for by_arm in (half, less)
    ]
    assert 0 < 10 * harm[0] < harm[1]
    assert min(less["cut_by_outputs"].values()) > 2 * max(less["dense"].values())


def test_the_larger_language_model() -> None:
    half, less = (language_report.losses(of_width(256), macs) for macs in (0.5, 0.3))
    for by_arm, cost, harm in ((half, 0.018, 0.002), (less, 0.059, 0.004)):
        assert by_arm.keys() == language_report.TITLES.keys() - {"outputs", "scratch", "slorr"}
        assert all(seeds.keys() == set(SEEDS) for seeds in by_arm.values())
        means = means_of(by_arm)
        assert round(means["no_transfer"] - means["dense"], 3) == cost
        assert round(means["projected"] - means["no_transfer"], 3) == harm
        assert is_ahead(by_arm, "no_transfer", "projected")
        assert is_ahead(by_arm, "no_transfer", "by_energy")
        assert is_ahead(by_arm, "retrained", "retrained_by_energy")
        assert all(is_ahead(by_arm, "no_transfer", arm) for arm in ("retrained", "retrained_by_outputs"))
        assert all(f"{means[arm]:.3f}" in NUMBERS for arm in SHOWN)
    means = means_of(less)
    assert sorted(means, key=means.__getitem__)[:2] == ["dense", "no_transfer"]
    assert is_ahead(less, "no_transfer", "pat")
    assert sum(less["frobenius"][seed] < less["no_transfer"][seed] for seed in SEEDS) == 2
    assert sum(half["no_transfer"][seed] < half["pat"][seed] for seed in SEEDS) == 2
    means = means_of(half)
    assert round(means["no_transfer"] - means["pat"], 3) == 0.001
    added, less_added = (means[arm] - means["dense"] for arm in ("cut", "cut_by_outputs"))
    assert 0.45 < less_added / added < 0.55


def test_fine_tuning_the_larger_model() -> None:
    most, half, less = (
        language_report.losses(of_width(256), macs, language_report.TITLES_TUNED) for macs in (0.7, 0.5, 0.3)
    )
    assert [len(most["tuned_dense"]), *(len(by_arm["tuned_dense"]) for by_arm in (half, less))] == [2, 3, 3]
    for by_arm, best, lost in (
        (most, "tuned_by_outputs", 0.005), (half, "tuned_by_outputs", 0.013), (less, "tuned_no_transfer", 0.071),
    ):  # fmt: skip
        means = means_of(by_arm)
        assert sorted(means, key=means.__getitem__)[:2] == ["tuned_dense", best]
        assert round(means[best] - means["tuned_dense"], 3) == lost
        assert abs(means["tuned_projected"] - means["tuned_no_transfer"]) < 0.0015
        factors = {"tuned_svd", "tuned_by_outputs"}
        rivals = factors - {best} if best in factors else factors
        if best in factors:
            rivals |= {"tuned_projected", "tuned_no_transfer"}
        assert all(is_ahead(by_arm, best, rival) for rival in rivals)
    found = [means_of(by_arm) for by_arm in (most, half, less)]
    for arm in ("tuned_dense", "tuned_by_outputs", "tuned_svd", "tuned_no_transfer"):
        assert f"| {' | '.join(f'{means[arm]:.3f}' for means in found)} |" in page("docs/huggingface.md")
