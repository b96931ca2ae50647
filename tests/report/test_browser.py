"""The page in a real browser, opened from its file: every control is used, at two widths, by light and in the dark."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, sync_playwright

from lrpet.report.write import write_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium or Chrome is installed; Debian's package is chromium"
)
OFFLINE = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OFFLINE)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pages(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The page of a run, and one of it beside a copy."""
    folder = tmp_path_factory.mktemp("pages")
    shutil.copytree(finished, folder / "copy")
    return [
        write_report([finished], folder / "one.html"),
        write_report([finished, folder / "copy"], folder / "two.html"),
    ]


@pytest.fixture(params=[(390, "dark"), (1280, "light")], ids=["phone-dark", "desktop-light"])
def opened(request: pytest.FixtureRequest, browser: Browser, pages: list[Path]) -> Iterator[list[Any]]:
    """Both pages in the browser; afterwards there were no errors, and nothing else was asked for."""
    width, scheme = request.param
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    said: list[str] = []
    tabs = []
    for path in pages:
        tab = context.new_page()
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("request", lambda asked: said.append(asked.url))
        tab.goto(path.as_uri())
        tabs.append(tab)
    yield tabs
    assert set(said) == {path.as_uri() for path in pages}
    context.close()


def test_the_page_fits_its_window_and_keeps_nobody_out(opened: list[Any]) -> None:
    for tab in opened:
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
        for scheme in ("light", "dark"):
            tab.select_option("#theme", scheme)
            found = Axe().run(tab)
            assert found.violations_count == 0, found.generate_report()
        assert tab.evaluate(
            "[...document.querySelectorAll('svg')].every(svg => svg.getBoundingClientRect().height > 100)"
        )


def test_the_theme_is_chosen_and_remembered(opened: list[Any]) -> None:
    tab = opened[0]
    colour = "getComputedStyle(document.body).backgroundColor"
    by_system = tab.evaluate(colour)
    seen = {}
    for scheme in ("light", "dark"):
        tab.select_option("#theme", scheme)
        seen[scheme] = tab.evaluate(colour)
    assert seen["light"] != seen["dark"]
    assert by_system in seen.values()
    tab.reload()
    assert tab.evaluate(colour) == seen["dark"]
    tab.emulate_media(media="print")
    assert tab.evaluate(colour) == "rgb(255, 255, 255)"
    assert not tab.is_visible("#theme")
    tab.emulate_media(media="screen")
    tab.select_option("#theme", "")
    assert tab.evaluate(colour) == by_system


def test_singular_values_are_drawn_for_every_layer_and_moment(opened: list[Any]) -> None:
    tab = opened[0]
    figure = tab.locator("figure[id^=folding]")
    slider, layer = figure.locator("input[type=range]"), figure.locator("select")
    curve = "document.querySelector('[data-part=now]').getAttribute('points')"
    last = int(slider.get_attribute("max"))
    seen, words = set(), set()
    slider.focus()
    slider.press("Home")
    for number in range(last + 1):
        assert slider.input_value() == str(number)
        seen.add(tab.evaluate(curve))
        words.add(figure.locator("output").inner_text())
        assert slider.get_attribute("aria-valuetext") in words
        slider.press("ArrowRight")
    assert len(words) == last + 1
    assert len(seen) >= 4
    layers = layer.locator("option").all_inner_texts()
    drawn = set()
    for name in layers:
        layer.select_option(label=name)
        drawn.add(tab.evaluate(curve))
        assert name in figure.locator("svg").get_attribute("aria-label")
        assert f"Singular values of {name} over training." in figure.locator("figcaption").inner_text()
    assert len(drawn) == len(layers)
    assert figure.locator("[data-part=rank]").inner_html() == "stays dense"  # the classifier
    tab.clock.install()
    button = figure.locator("button")
    button.click()
    assert (button.inner_text(), slider.input_value()) == ("Stop", "0")
    tab.clock.run_for(800)
    assert slider.input_value() == "1"
    button.click()
    assert button.inner_text() == "Play"
    button.click()
    tab.clock.run_for(700 * (last + 2))
    assert (button.inner_text(), slider.input_value()) == ("Play", str(last))


def test_layers_are_sorted_and_filtered(opened: list[Any]) -> None:
    tab = opened[0]
    box = tab.locator("[data-table]")
    heads, rows = box.locator("thead th"), box.locator("tbody tr")
    count = rows.count()
    for column in range(heads.count()):
        values = []
        for direction in ("ascending", "descending"):
            if heads.nth(column).get_attribute("aria-sort") != direction:
                heads.nth(column).locator("button").press("Enter")
            assert heads.nth(column).get_attribute("aria-sort") == direction
            assert box.locator("th[aria-sort]").count() == 1
            script = f"rows => rows.map(r => r.cells[{column}].dataset.value ?? r.cells[{column}].textContent)"
            values.append(rows.evaluate_all(script))
        assert sorted(values[0]) == sorted(values[1])
        if "number" in (heads.nth(column).get_attribute("class") or ""):
            assert list(map(float, values[0])) == sorted(map(float, values[0]))
            assert list(map(float, values[1])) == sorted(map(float, values[1]), reverse=True)
    filter = box.locator("input")
    filter.fill("LEFT out")
    assert box.locator("tbody tr:visible").count() == 1
    assert box.locator("output").inner_text() == f"1 of {count} layers"
    filter.fill("")
    assert box.locator("tbody tr:visible").count() == count


def test_all_controls_are_reached_by_the_keyboard(opened: list[Any]) -> None:
    tab = opened[0]
    controls = tab.locator("select, button, input").count()
    reached = set()
    for _ in range(controls + 20):
        tab.keyboard.press("Tab")
        reached.add(
            tab.evaluate(
                "(e => ['SELECT', 'BUTTON', 'INPUT'].includes(e.tagName) ? [...document.querySelectorAll('*')].indexOf(e) : -1)"
                "(document.activeElement)"
            )
        )
    assert len(reached - {-1}) == controls
