# SPDX-License-Identifier: Apache-2.0
"""Two runs compared: a difference is found where there is one, and none where there is none."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from pydp.bench import document
from pydp.bench.diff import Change, differences, missing, quotient
from pydp.bench.results import Results, evaluate
from pydp.bench.statistics import MIN_BLOCKS, ratio
from pydp.cli.main import main
from tests.unit.bench_results import result, results, scenario, series


def changes(before: Results, after: Results, tolerance: float = 0.05) -> dict[str, Change]:
    return {one.name: one.change for one in differences(before, after, tolerance=tolerance)}


FIRST = "bridge-xdp-64: pydp / kernel"


def test_a_slower_program_is_worse_and_a_faster_one_better() -> None:
    fast, slow = results(result(pydp=4e6, seed=1)), results(result(pydp=2.8e6, seed=2))
    assert changes(fast, slow)[FIRST] is Change.WORSE
    assert changes(slow, fast)[FIRST] is Change.BETTER
    assert changes(fast, slow, tolerance=0.5)[FIRST] is Change.SAME


def test_where_less_is_better_more_is_worse() -> None:
    quick, slow = results(result(pydp=2e6, seed=1, less=True)), results(result(pydp=4e6, seed=2, less=True))
    assert changes(quick, slow)[FIRST] is Change.WORSE
    assert changes(slow, quick)[FIRST] is Change.BETTER


def test_a_program_that_costs_more_is_worse() -> None:
    cheap, dear = results(cost=3, seed=1), results(cost=4, seed=2)
    assert set(changes(cheap, dear).values()) == {Change.WORSE}
    assert set(changes(dear, cheap).values()) == {Change.BETTER}


def test_the_same_programs_again_show_no_difference() -> None:
    """Twenty pairs of runs: without a tolerance no more may show one than the confidence leaves."""
    wrong = 0
    for trial in range(20):
        before, after = (
            results(*(result(f"bridge-{number}", seed=1000 * trial + 2 * number + again) for number in range(3)))
            for again in (0, 1)
        )
        found = changes(before, after, tolerance=0)
        assert len(found) == 6
        wrong += any(change is not Change.SAME for change in found.values())
    assert wrong <= 4  # of 20, each with a chance of 5 %: more than 4 come once in 400 times, and the draws are fixed


def test_the_second_of_two_equal_ways_shows_no_difference() -> None:
    """What --aa compares: one program, built twice. Each misses with a chance of 5 %."""
    missed = 0
    for seed in range(100):
        pairs = series({"pydp": 4e6, "pydp-again": 4e6}, seed=seed).pairs("pydp-again", "pydp")
        found = ratio(pairs)
        missed += not found.low <= 1 <= found.high
    assert missed <= 12


def test_few_blocks_claim_nothing() -> None:
    fast, slow = (results(result(pydp=speed, seed=1, blocks=MIN_BLOCKS - 1)) for speed in (4e6, 1e6))
    assert changes(fast, slow)[FIRST] is Change.UNCLEAR


def test_a_wider_confidence_gives_a_wider_interval() -> None:
    draw = random.Random(1)
    before, after = ([draw.gauss(10, 1) for _ in range(20)] for _ in range(2))
    narrow, wide = quotient(before, after, 0.95), quotient(before, after, 0.999)
    assert wide.low < narrow.low < narrow.median == wide.median < narrow.high < wide.high


def test_another_fastest_rival_is_compared_all_the_same() -> None:
    """The comparison is with the fastest of several, which need not be the same one in both runs."""
    from dataclasses import replace

    from pydp.bench.scenario import Comparison

    rivals = replace(scenario(), comparisons=(Comparison("pydp", ("kernel", "redirect")),))
    first = evaluate(rivals, series({"kernel": 1e6, "pydp": 4e6, "redirect": 2e6}, seed=1))
    second = evaluate(rivals, series({"kernel": 2e6, "pydp": 4e6, "redirect": 1e6}, seed=2))
    assert [one.comparisons[0].against for one in (first, second)] == ["redirect", "kernel"]
    assert changes(results(first), results(second)) == {FIRST: Change.WORSE}  # 4 times the kernel before, 2 times now


def test_what_was_not_measured_again_is_named() -> None:
    both = results(result("bridge-xdp-64"), result("nat-new"))
    assert missing(both, results(result("bridge-xdp-64"))) == ["nat-new"]
    assert missing(both, both) == []


# The verb


def saved(path: Path, found: Results) -> str:
    document.save(found, path)
    return str(path)


def test_the_exit_status_tells_a_regression(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fast = saved(tmp_path / "fast.json", results(result(pydp=4e6, seed=1), result("nat-new")))
    slow = saved(tmp_path / "slow.json", results(result(pydp=2.8e6, seed=2)))
    assert main(["bench", "diff", fast, slow]) == 1
    told = capsys.readouterr().out
    assert [line for line in told.splitlines() if line.startswith("worse") and FIRST in line]
    assert f"not in {slow}: nat-new" in told
    assert main(["bench", "diff", slow, fast]) == 0
    assert main(["bench", "diff", "--tolerance", "0.5", fast, slow]) == 0


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{}", "version none, not 2"),
        ('{"version": 1}', "version 1, not 2"),
        ("[1]", "version none, not 2"),
        ("no JSON", "Expecting value"),
        ('{"version": 2}', "no such key"),
    ],
)
def test_a_file_that_holds_no_results_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, told: str
) -> None:
    file = tmp_path / "other.json"
    file.write_text(text)
    assert main(["bench", "diff", str(file), str(file)]) == 2
    said = capsys.readouterr().err
    assert str(file) in said
    assert told in said


def test_wrong_usage_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = saved(tmp_path / "one.json", results(result("bridge-xdp-64")))
    other = saved(tmp_path / "other.json", results(result("nat-new")))
    for arguments, told in (
        (["diff", one], "two files, not 1"),
        (["diff", one, other], "no comparison in common"),
        (["show"], "one file, not 0"),
        (["diff", one, one, "--tolerance", "1"], "--tolerance 1"),
        (["show", one, "--html", "-"], "--html -"),
    ):
        assert main(["bench", *arguments]) == 2
        assert told in capsys.readouterr().err
