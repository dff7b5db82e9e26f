# SPDX-License-Identifier: Apache-2.0
"""The page of `pydp bench --html` in a browser: on a phone and a desk, light and dark, without a network.

Screenshots are kept in build/screenshots, which PYDP_SCREENSHOTS puts elsewhere.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pydp.bench import page
from pydp.bench.scenario import Point
from tests.unit.bench_results import result, results

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).resolve().parents[2]
SCREENSHOTS = Path(os.environ.get("PYDP_SCREENSHOTS", ROOT / "build" / "screenshots"))
BROWSERS = ("chromium-headless-shell", "chromium")
SIZES = {"phone": (360, 740), "desk": (1280, 900)}
CURVE = [(1, 4.2e6), (1000, 4e6), (1_000_000, 2e6)]
AA = 4.5  # WCAG 2.2, success criterion 1.4.3: contrast of text


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip("needs a browser: apt-get install chromium-headless-shell")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Its sandbox wants not to be root, which these tests are; the page is ours.
        started = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with all there is: bars, a curve of two distributions, a fault, costs."""
    curve = [
        result(
            f"bridge-fdb-{at}-{series}",
            pydp=speed,
            seed=at,
            point=Point("bridge-fdb", "FDB", "FDB entries", at, series),
        )
        for series in ("uniform", "zipf")
        for at, speed in CURVE
    ]
    file = tmp_path_factory.mktemp("page") / "results.html"
    page.write(results(result(), *curve, result("nat-new", lost=0.01), cost=3), file)
    return file


def open_page(browser: Browser, file: Path, size: str, scheme: str) -> tuple[Page, list[str]]:
    """The page, and all that it asked for or complained about."""
    width, height = SIZES[size]
    shown = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)  # type: ignore[arg-type]
    noticed: list[str] = []
    shown.on("request", lambda request: noticed.append(request.url))
    shown.on("console", lambda message: noticed.append(message.text))
    shown.on("pageerror", lambda error: noticed.append(str(error)))
    shown.goto(file.as_uri())
    return shown, noticed


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_it_can_be_read(browser: Browser, written: Path, size: str, scheme: str) -> None:
    shown, noticed = open_page(browser, written, size, scheme)
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    shown.screenshot(path=SCREENSHOTS / f"bench-{size}-{scheme}.png", full_page=True)
    assert noticed == [written.as_uri()], "it loads something, or complains"
    assert shown.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert shown.evaluate(CONTRAST) >= AA
    charts = shown.locator("svg.chart")
    assert charts.count() == 4
    for number in range(charts.count()):
        box = charts.nth(number).bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= SIZES[size][0]
        assert box["height"] > 60
    assert shown.evaluate(CUT) == []
    assert shown.evaluate(SMALLEST) >= 12
    shown.close()


def test_a_chart_has_the_colours_of_the_scheme(browser: Browser, written: Path) -> None:
    found = {}
    for scheme in ("light", "dark"):
        shown, _ = open_page(browser, written, "desk", scheme)
        found[scheme] = shown.evaluate(COLOURS)
        shown.close()
    for colours in found.values():
        assert len(set(colours)) == 3, "kernel, eBPF and limit look alike"
        assert not {"rgb(0, 0, 0)", "none"} & set(colours), "a colour of the chart's is not known to the page"
    assert not set(found["light"]) & set(found["dark"])


# The contrast of the page's text (WCAG 2.2, relative luminance).
CONTRAST = """() => {
    const light = text => {
        const [r, g, b] = text.match(/[0-9.]+/g).slice(0, 3).map(Number).map(value => value / 255)
            .map(value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const paper = light(getComputedStyle(document.body).backgroundColor);
    return Math.min(...[...document.querySelectorAll("p, td, th, h2, .wrong, svg text")].map(element => {
        const style = getComputedStyle(element);
        const ink = light(element.tagName === "text" ? style.fill : style.color);
        return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    }));
}"""
# Text of charts that begins or ends outside of the window.
CUT = """() => [...document.querySelectorAll("svg text")].filter(text => {
    const box = text.getBoundingClientRect();
    return box.left < 0 || box.right > document.documentElement.clientWidth;
}).map(text => text.textContent)"""
# The height of the smallest text of the charts, in CSS pixels.
SMALLEST = """() => Math.min(...[...document.querySelectorAll("svg text")]
    .filter(text => text.textContent).map(text => text.getBoundingClientRect().height))"""
# The colours of the first chart's bars.
COLOURS = """() => [...document.querySelector("svg.chart").querySelectorAll('path[aria-roledescription="bar"]')]
    .map(bar => getComputedStyle(bar).fill)"""
