# SPDX-License-Identifier: Apache-2.0
"""README's figures are those of the results that are kept, all of them, and none that these do not support."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from pydp.bench import document, figures
from pydp.bench.results import ScenarioResult
from pydp.bench.scenario import Point
from pydp.bench.scenarios import SCENARIOS
from pydp.errors import UsageError
from tests.unit.bench_results import result, results

ROOT = Path(__file__).resolve().parents[2]
README, KEPT = ROOT / figures.README, ROOT / figures.RESULTS


def rows(text: str) -> dict[str, list[str]]:
    """Cells by the first of their row."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return {row[0]: row[1:] for row in cells}


kept = pytest.mark.skipif(not KEPT.exists(), reason="nobody has measured yet: `make results`")


@kept
def test_readme_is_up_to_date() -> None:
    text = README.read_text(encoding="utf-8")
    assert figures.replaced(text, document.load(KEPT)) == text, "`make figures` writes them anew"


@kept
def test_the_results_that_are_kept_are_of_one_whole_run() -> None:
    """Of all that there is, not cut short, without a fault, and with a block at the least of each."""
    found = document.load(KEPT)
    assert not found.interrupted
    assert not found.options["quick"]
    assert not found.faults()
    assert {one.name for one in found.scenarios} == {one.name for one in SCENARIOS}
    assert all(one.kept for one in found.scenarios)
    assert found.costs
    page = KEPT.with_suffix(".html").read_text(encoding="utf-8")
    assert found.begun in page
    assert found.ended in page


def test_a_row_has_what_was_found() -> None:
    found = rows(figures.text(results(result(pydp=4e6), cost=2)))
    kernel, mine, to_kernel, to_limit, cpu, _ = found["what bridge-xdp-64 does"]
    assert re.fullmatch(r"\d\.\d* Mpps", kernel)
    assert float(mine.split()[0]) > 3 * float(kernel.split()[0])
    assert re.fullmatch(r"\*\*\d\.\d\d\*\* \(\d\.\d\d - \d\.\d\d\)", to_kernel)
    assert to_limit.startswith("**0.")
    assert cpu.endswith("/packet")
    assert found["xdp"][0] == "bridge"


def test_what_shows_no_difference_is_not_bold() -> None:
    found = rows(figures.text(results(result(pydp=1.001e6))))
    assert not found["what bridge-xdp-64 does"][2].startswith("**")
    assert "too few" in rows(figures.text(results(result(blocks=2))))["what bridge-xdp-64 does"][2]


def test_of_a_curve_its_ends_are_shown() -> None:
    some = [result(f"bridge-fdb-{at}", point=Point("bridge-fdb", "FDB", "entries", at)) for at in (1, 10, 100)]
    found = rows(figures.text(results(*some)))
    assert {"what bridge-fdb-1 does", "what bridge-fdb-100 does"} <= found.keys()
    assert "what bridge-fdb-10 does" not in found


def delayed(load: int) -> ScenarioResult:
    one = result(f"bridge-latency-{load}", pydp=5e-7, less=True, point=Point("bridge-latency", "bridge", "load", load))
    delays = {"50": 5e-6, "90": 6e-6, "99": 1e-4, "99.9": 2.5e-4}
    return replace(one, paths={name: replace(path, percentiles=delays) for name, path in one.paths.items()})


def test_delays_have_their_percentiles() -> None:
    found = rows(figures.text(results(*map(delayed, (10, 50, 90)))))
    assert [name for name in found if name.startswith("bridge")] == ["bridge, 10 %", "bridge, 50 %", "bridge, 90 %"]
    assert found["bridge, 50 %"][:2] == ["5 / 6 / 100 / 250"] * 2


def test_faults_are_told() -> None:
    assert "did not arrive" in figures.text(results(result(lost=0.01)))


def test_a_page_without_a_place_for_them_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="README has no lines"):
        figures.replaced("nothing", results())
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{figures.BEGIN}\nbygone\n{figures.END}\nbehind\n")
    kept = tmp_path / "bench.json"
    document.save(results(result()), kept)
    assert figures.main([str(readme), str(kept)]) == 0
    assert readme.read_text().startswith(f"before\n{figures.BEGIN}\n")
    assert readme.read_text().endswith(f"{figures.END}\nbehind\n")
    assert "bygone" not in readme.read_text()
    assert "what bridge-xdp-64 does" in readme.read_text()
    assert figures.main([str(readme), str(tmp_path / "none")]) == 1
    assert "figures: " in capsys.readouterr().err
