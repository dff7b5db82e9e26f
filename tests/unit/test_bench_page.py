# SPDX-License-Identifier: Apache-2.0
"""What a page says, as text: how it looks is for tests/system/test_bench_page.py."""

from __future__ import annotations

import shlex
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from pydp.bench import charts, document, page, report
from pydp.bench.scenario import Point
from pydp.bench.statistics import Interval
from pydp.bench.summary import sentence
from pydp.cli.main import main
from tests.unit.bench_results import result, results

SVG = "{http://www.w3.org/2000/svg}"


def test_a_sentence_claims_what_the_interval_allows() -> None:
    one = result(pydp=4e6)
    told = sentence(one)
    assert "pydp --hook xdp carries " in told
    assert " times as much as kernel bridge (95 % interval " in told
    assert " % of bare XDP bpf_redirect" in told
    level = replace(one, comparisons=(replace(one.comparisons[0], ratio=Interval(1.02, 0.9, 1.1)),))
    assert sentence(level) == (
        "between pydp --hook xdp and kernel bridge no difference was seen (95 % interval 0.90 to 1.10)."
    )
    assert "too few blocks" in sentence(result(blocks=2))
    less = replace(level, less=True, comparisons=(replace(one.comparisons[0], ratio=Interval(0.8, 0.7, 0.9)),))
    assert sentence(less).startswith("pydp --hook xdp takes 20 % less than kernel bridge")
    assert (
        sentence(replace(one, paths={}, comparisons=(), fault="none arrived")) == "Nothing can be said: none arrived."
    )


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(svg).iter(f"{SVG}text")]


def test_bars_have_a_name_a_colour_and_an_interval() -> None:
    svg = charts.bars(result())
    assert {"kernel bridge", "pydp --hook xdp", "bare XDP bpf_redirect", "Mpps"} <= set(texts(svg))
    for colour in ("var(--kernel)", "var(--ebpf)", "var(--limit)"):
        assert svg.count(f'fill="{colour}"') == 1
    assert svg.count('stroke="var(--interval)"') == 3
    assert "aria-label=" in svg.partition(">")[0]


def test_curves_have_logarithmic_axes() -> None:
    """Steps of equal ratio are as far from each other."""
    points = [
        result(f"bridge-fdb-{at}", pydp=speed, point=Point("bridge-fdb", "FDB", "FDB entries", at), seed=at)
        for at, speed in ((1, 4e6), (1000, 3e6), (1_000_000, 2e6))
    ]
    svg = charts.curve(points)
    lines = [
        element.get("d", "")
        for element in ET.fromstring(svg).iter(f"{SVG}path")
        if element.get("aria-roledescription") == "line mark"
    ]
    assert len(lines) == 3
    for line in lines:
        across = [float(pair.split(",")[0]) for pair in line.replace("M", "").split("L")]
        assert across[2] - across[1] == pytest.approx(across[1] - across[0], rel=0.01)
    assert "FDB entries" in texts(svg)


def test_a_page_is_whole_and_escaped() -> None:
    found = results(result(), result("nat-new", lost=0.01), cost=3)
    text = page.render(found)
    assert "&lt;a processor&gt;" in text
    assert "<a processor>" not in text
    assert "1 % of the frames that were sent through pydp --hook xdp did not arrive" in text
    assert text.count("<svg") == 3
    for forbidden in ("<script", "<link", "<img", "@import", "src="):
        assert forbidden not in text
    assert "Vulnerable" in text
    assert "pydp bench --quick --noise=0.6 --json=results.json --html=results.html" in text
    assert sentence(found.scenarios[0]) in text


def test_the_command_is_one_that_the_parser_takes() -> None:
    words = shlex.split(page.command({"what": ["nat"], "quick": False, "blocks": 3, "noise": 0.5, "aa": True}))
    from pydp.cli.main import make_parser

    args = make_parser().parse_args(words[1:])
    assert (args.what, args.quick, args.blocks, args.noise, args.aa) == (["nat"], False, 3, 0.5, True)


def test_a_file_is_shown_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, written = tmp_path / "results.json", tmp_path / "page.html"
    document.save(results(result()), file)
    assert main(["bench", "show", str(file), "--html", str(written)]) == 0
    assert "## what bridge-xdp-64 does" in capsys.readouterr().out
    assert written.read_text().startswith("<!doctype html>")


def test_delays_are_shown_with_their_percentiles() -> None:
    one = result("bridge-latency-50", less=True, pydp=5e-7)
    delays = {"50": 5.25e-6, "99.9": 2.5e-4}
    paths = {name: replace(path, percentiles=delays, offered=1.25e5) for name, path in one.paths.items()}
    shown = page.render(results(replace(one, paths=paths)))
    told = report.text(results(replace(one, paths=paths)))
    for text in ("50 %, us", "99.9 %, us", "at M/s", "5.25", "250", "0.125"):
        assert text in shown
        assert text in told
    assert "99.9 %, us" not in page.render(results(one))
