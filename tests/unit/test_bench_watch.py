# SPDX-License-Identifier: Apache-2.0
"""How far a run has come, and which scenarios it takes."""

from __future__ import annotations

import io
import os
import pty
import sys

import pytest

from pydp.bench import runner, watch
from pydp.bench.scenarios import SCENARIOS
from pydp.errors import UsageError


def choose(*names: str, quick: bool = False) -> list[str]:
    chosen = runner.choose(names, quick=quick, blocks_wanted=None, noise=0.6, again=False)
    return [scenario.name for scenario, _ in chosen.scenarios] + ([runner.COST] if chosen.cost else [])


def test_the_time_left_follows_from_what_was_needed() -> None:
    now = 0.0
    estimate = watch.Estimate({"a": 10, "b": 30}, clock=lambda: now)
    assert estimate.left() == 40
    estimate.begin("a")
    now = 10  # twice as long as was thought
    estimate.reach(0.5)
    assert estimate.left() == pytest.approx(70)
    now = 20
    estimate.begin("b")
    assert estimate.left() == pytest.approx(60)
    now = 40
    estimate.reach(1)
    assert estimate.left() == 0


@pytest.mark.parametrize(
    ("seconds", "told"), [(0, "5 s left"), (42, "40 s left"), (70, "1 min left"), (3 * 3600 + 420, "3 h 07 min left")]
)
def test_no_more_exact_than_it_is_known(seconds: float, told: str) -> None:
    assert watch.words(seconds) == told


def test_a_terminal_sees_bars_and_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    silent = io.StringIO()
    monkeypatch.setattr(sys, "stderr", silent)
    with watch.watching({"a": 1}) as shown:
        shown.begin("a")
        shown.reach(0.5, "block 1 of 2")
    assert silent.getvalue() == ""

    monkeypatch.setenv("TERM", "xterm")
    outer, inner = pty.openpty()
    with open(inner, "w", encoding="utf-8") as terminal:  # noqa: PTH123 - a descriptor
        monkeypatch.setattr(sys, "stderr", terminal)
        with watch.watching({"nat-new": 60, "cost": 60}) as shown:
            shown.begin("nat-new")
            shown.reach(0.5, "block 1 of 2")
        terminal.flush()
        told = os.read(outer, 1 << 16).decode()
    os.close(outer)
    assert "nat-new" in told
    assert "50 %  block 1 of 2" in told
    assert "25 %" in told
    assert " left" in told


def test_suites_stand_for_their_scenarios() -> None:
    assert choose() == [*(scenario.name for scenario in SCENARIOS), runner.COST]
    for suite in ("bridge", "vxlan", "ipip", "nat"):
        assert choose(suite) == [scenario.name for scenario in SCENARIOS if scenario.name.startswith(f"{suite}-")]
    assert choose("cost") == ["cost"]
    assert choose("nat-new", "bridge-counters", "cost") == ["bridge-counters", "nat-new", "cost"]


def test_a_quick_run_has_all_suites_and_leaves_out_what_is_long() -> None:
    quick, suite = choose(quick=True), choose("nat", quick=True)
    assert {name.partition("-")[0] for name in quick} == {"bridge", "vxlan", "ipip", "nat", "macvlan", "ipvlan", "cost"}
    assert "nat-program" not in (*quick, *suite)
    assert choose("nat-program", quick=True) == ["nat-program"]
    assert choose("bridge-size", quick=True) == choose("bridge-size") != []


def test_an_unknown_name_is_refused_with_those_near_it() -> None:
    with pytest.raises(UsageError, match="nat-nwe: there is no such scenario or suite") as caught:
        choose("nat-nwe")
    assert "nat-new" in caught.value.hint
