"""The page of a run, read without a browser."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.numpy import load_file

import lrpet
from lrpet.cli import main
from lrpet.latency.results import Bench
from lrpet.latency.rows import Cost, LayerRow, Row
from lrpet.latency.table import LatencyTable
from lrpet.report.spectra import MOST_VALUES, Moment, Spectra, thinned
from lrpet.report.svg import Scale
from lrpet.report.write import write_report
from runs import killed_at, quick, run

VOID = {"meta", "input", "wbr", "link", "img"}


class Page(HTMLParser):
    """The elements of a page; raises AssertionError where they are not closed in order."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open:
            self.words.setdefault(self._open[-1], []).append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(said) for tag, said in self.words.items() if tag not in ("script", "style"))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def summary(finished: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((finished / "summary.json").read_text())
    return values


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "dense"
    run(quick(folder, method="dense", macs=None, epochs=1))
    return folder


@pytest.fixture(scope="module")
def page(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return Page(write_report([finished], tmp_path_factory.mktemp("pages") / "page.html"))


def test_the_page_needs_nothing_else(page: Page) -> None:
    linked = [value for _, each in page.elements for name, value in each.items() if name in ("src", "href", "srcset")]
    assert [value for value in linked if not (value or "").startswith("#")] == []
    (policy,) = (each["content"] for each in page.all("meta") if each.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest", "".join(page.words["style"] + page.words["script"]))


def test_everything_has_a_name_for_those_who_do_not_see_it(page: Page) -> None:
    ids = Counter(each["id"] for _, each in page.elements if "id" in each)
    assert set(ids.values()) == {1}
    assert all(each["role"] == "img" and len(each["aria-label"] or "") > 20 for each in page.all("svg"))
    assert len(page.all("svg")) == 5
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("h1")) == 1


def test_the_page_says_what_the_summary_says(page: Page, finished: Path, summary: dict[str, Any]) -> None:
    low, high = summary["cpu_quartiles"]
    for said in (
        f"{summary['test_accuracy']:.2%}",
        f"{summary['cpu_milliseconds']:.3g} ms",
        f"half of all passes took {low:.3g}–{high:.3g} ms",
        f"{summary['macs'] / summary['macs_dense']:.0%} of the multiply-adds",
        f"{summary['params'] / summary['params_dense']:.0%} of the parameters",
        f"{(finished / 'compact' / 'model.safetensors').stat().st_size / 1e6:.3g} MB",
        f'lrpet.load("{finished}")',
        summary["command"],
        "first projection, step ",
        "dense network's is not known",
    ):
        assert said in page.text
    plan = lrpet.Plan.from_json((finished / "plan.json").read_text())
    assert len(page.all("tr")) == 1 + len(plan.layers) + 3  # and the table of latencies
    badges = page.words["span"]
    assert badges.count("factorised") == len(plan.ranks)
    assert {"left out", "factorised"} <= set(badges)
    assert all(layer.reason in page.text for layer in plan.layers)


def test_spectra_are_drawn_as_they_were_recorded(page: Page, finished: Path) -> None:
    (text,) = (each for each in page.words["script"] if each.startswith("{"))
    data = json.loads(text)
    files = sorted((finished / "spectra").iterdir())
    assert len(data["moments"]) == len(files)
    assert any("right before the projection" in words for words in data["moments"])
    end = load_file(next(path for path in files if path.stem.endswith("-end")))
    plan = lrpet.Plan.from_json((finished / "plan.json").read_text())
    ranks, names = plan.ranks, [layer.name for layer in plan.layers if layer.name in end]
    assert len(data["layers"]) == len(end)
    floor = max(y for layer in data["layers"] for curve in layer["y"] for y in curve)
    for layer, name in zip(data["layers"], names, strict=True):
        assert layer["full"] == len(end[name])
        assert layer["rank"] == ranks.get(name)
        if layer["rank"] is not None:
            kept = sum(x < layer["cut"] for x in layer["x"])
            assert kept == layer["rank"] or (
                kept < layer["rank"] and layer["full"] > 128
            )  # of many values some are drawn
            assert layer["y"][-1][kept] == floor  # the cliff
            assert layer["y"][-1][kept - 1] < floor - 100


def test_a_dense_run_says_what_was_lost_and_runs_are_compared(
    finished: Path, dense: Path, summary: dict[str, Any], tmp_path: Path
) -> None:
    found = Page(write_report([finished, dense], tmp_path / "two.html"))
    baseline = json.loads((dense / "summary.json").read_text())["test_accuracy"]
    points = 100 * (summary["test_accuracy"] - baseline)
    assert f"{abs(points):.2f} points {'above' if points > 0 else 'below'} the dense network" in found.text
    assert f"{-points:+.2f} points" in found.text  # of the second run, in the table
    for said in (
        "Options that differ",
        "epochs",
        "A: finished",
        "B: dense",
        "Test accuracy against time of one pass, dense = 1",
    ):
        assert said in found.text or any(said in (each["aria-label"] or "") for each in found.all("svg"))
    assert {"#run-1", "#run-2"} == {each["href"] for each in found.all("a")}
    assert Counter(each["id"] for _, each in found.elements if "id" in each).most_common(1)[0][1] == 1


def test_a_run_that_took_its_weights_from_a_dense_one_knows_it(finished: Path, dense: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    config = yaml.safe_load((finished / "config.yaml").read_text())
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump({**config, "weights": str(dense)}))
    assert "the dense network's is not known" not in Page(write_report([tmp_path / "run"])).text


def test_times_by_layer_come_from_the_run_s_folder(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    assert "lrpet bench" in Page(write_report([folder])).text
    plan = lrpet.Plan.from_json((folder / "plan.json").read_text())
    name = next(iter(plan.ranks))
    channel, spatial = {name: {1: 2.0}}, {name: {1: 1.0, plan.ranks[name]: 3.25}}
    LatencyTable(10.0, {name: 8.0}, channel, {"runtime": "openvino"}).save(folder / "latency.json")
    assert "lrpet bench" in Page(write_report([folder])).text  # it has no times of kernels divided as planned
    LatencyTable(10.0, {name: 8.0}, channel, {"runtime": "openvino"}, spatial=spatial).save(folder / "latency.json")
    found = Page(write_report([folder]))
    assert "From the table of latencies: openvino" in found.text
    assert {"8", "3.25"} <= set(found.words["text"])
    cost = Cost(1, 1, 1)
    rows = [Row(who, "openvino", 16, ms, (ms, ms), 5, None, cost, ms / 9, 1.0) for who, ms in (("d", 9.0), ("c", 4.5))]
    Bench(tuple(rows), (LayerRow("c", name, "Conv2d", 7.75, 6.5, 0.5),)).save(folder / "bench.json")
    found = Page(write_report([folder]))
    assert "Where the time goes, by layer, in ms." in found.text
    assert {"7.75", "6.5"} <= set(found.words["text"])
    assert "openvino, lrpet bench" in found.text


@pytest.mark.usefixtures("untimed")
def test_a_run_that_was_killed_has_a_page_of_what_there_is(tmp_path: Path) -> None:
    with killed_at(15):
        run(quick(tmp_path / "run", model="resnet8", spectra=False))
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "epoch", "st')
    text = Page(write_report([tmp_path / "run"])).text
    assert "This run has not ended: the page shows what it logged in 1 of 2 epochs." in text
    assert "The run recorded none" in text
    assert f"lrpet train --resume --output {tmp_path / 'run'}" in text


def test_names_cannot_break_out_of_the_page(finished: Path, tmp_path: Path, page: Page) -> None:
    folder = tmp_path / "<img src=x>"
    shutil.copytree(finished, folder)
    config = yaml.safe_load((finished / "config.yaml").read_text())
    evil = '</script><script>alert(1)</script>"><b onclick="x">'
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, "model": evil}))
    found = Page(write_report([folder]))
    assert [tag for tag, _ in found.elements] == [tag for tag, _ in page.elements]


def test_a_page_is_made_again_and_other_files_are_kept(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert main(["report", str(finished), "--output", "page.html"]) == 0
    assert capsys.readouterr().out.startswith("page.html: 0.")
    assert (tmp_path / "page.html").stat().st_size < 300_000
    (tmp_path / "own.html").write_text("mine")
    assert main(["report", str(finished), "--output", "own.html"]) == 2
    assert "is no page of lrpet report" in capsys.readouterr().err
    assert (tmp_path / "own.html").read_text() == "mine"
    assert main(["report", str(finished), "--output", "none/page.html"]) == 2
    assert "there is no folder none for page.html" in capsys.readouterr().err
    assert main(["report", str(finished), str(finished)]) == 2
    assert "given twice" in capsys.readouterr().err
    shutil.copytree(finished, tmp_path / "damaged")
    (tmp_path / "damaged" / "summary.json").write_text("{")
    assert main(["report", "damaged"]) == 2
    assert "summary.json is damaged" in capsys.readouterr().err


def test_what_is_no_run_is_refused(refused: Callable[[list[str], str], None]) -> None:
    refused(["report", "nowhere", "--output", "page.html"], "nowhere is no folder of a run")


@pytest.mark.parametrize(("full", "rank"), [(5, 2), (4096, 7), (4096, 4095), (4096, 4096), (300, None)])
def test_curves_are_thinned_around_the_rank(full: int, rank: int | None) -> None:
    for points in (12, 128):
        at = thinned(full, rank, points)
        assert at == sorted(set(at))
        assert (at[0], at[-1]) == (1, full)
        assert len(at) <= points
        assert rank is None or {rank, min(rank + 1, full)} <= set(at)


def test_a_large_network_s_spectra_fit_the_page() -> None:
    import numpy as np

    values = {f"layer{number}": np.linspace(2, 1, 1024, dtype=np.float32) for number in range(150)}
    spectra = Spectra(tuple(Moment(step, "free", values) for step in range(12)))
    curves = [spectra.curves(name, 100, layers=150)[1] for name in spectra.layers(values)]
    assert sum(len(curve) for layer in curves for curve in layer) <= MOST_VALUES
    assert len(curves[0][0]) > 50
    assert curves[0][0][0] == 1.0


@pytest.mark.parametrize(("low", "high", "log"), [(0, 1, False), (0.531, 0.535, False), (3, 1e6, True), (2, 3, True)])
def test_ticks_are_round_and_inside(low: float, high: float, log: bool) -> None:
    ticks = Scale(low, high, log).ticks()
    assert 2 <= len(ticks) <= 7
    assert all(low - 1e-9 <= tick <= high * (1 + 1e-9) and len(f"{tick:g}") <= 6 for tick in ticks)
