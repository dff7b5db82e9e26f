# SPDX-License-Identifier: Apache-2.0
"""A run: which scenarios, by which plan, one after the other."""

from __future__ import annotations

import difflib
import math
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from ebpf.errors import EbpfError
from pydp.bench import blocks, costs
from pydp.bench.blocks import Plan
from pydp.bench.results import Results, evaluate
from pydp.bench.scenario import Scenario
from pydp.bench.scenarios import SCENARIOS
from pydp.bench.statistics import MIN_BLOCKS
from pydp.bench.watch import Watch, watching
from pydp.errors import PydpError, UsageError

COST = "cost"
QUICK = 150.0  # s that all of a quick run may take: three minutes with what comes before and behind
_COST_SECONDS = {True: 12.0, False: 40.0}  # by quick or not
_LEAST = 1.0  # s for the blocks of a scenario, however late it is
_MANY = 4  # scenarios named when a name is none


@dataclass(frozen=True, slots=True)
class Choice:
    """What is measured: scenarios with the plan of each, in this order, and with ``cost`` programs by test-run; all of
    it, where that can be done, ``within`` so many seconds.
    """

    scenarios: tuple[tuple[Scenario, Plan], ...]
    cost: bool
    quick: bool
    within: float = math.inf

    def seconds(self) -> dict[str, float]:
        """What each may take."""
        found = {scenario.name: scenario.seconds(plan) for scenario, plan in self.scenarios}
        return found | ({COST: _COST_SECONDS[self.quick]} if self.cost else {})


def suites() -> list[str]:
    """Names that stand for several scenarios: those of suites, and those of curves."""
    curves = (scenario.point.curve for scenario in SCENARIOS if scenario.point)
    return list(dict.fromkeys([*(scenario.suite for scenario in SCENARIOS), *curves, COST]))


def choose(
    names: Sequence[str], *, quick: bool, blocks_wanted: int | None, noise: float, again: bool,
    within: float | None = None,
) -> Choice:  # fmt: skip
    """The scenarios of these suites, curves or names of their own (none: all there are). Raises UsageError."""
    for name in names:
        if name not in suites() and all(name != scenario.name for scenario in SCENARIOS):
            raise UsageError(f"{name}: there is no such scenario or suite", hint=_near(name))
    chosen = []
    for scenario in SCENARIOS:
        if not names or _groups(scenario) & set(names):
            if quick and not scenario.brief and not {scenario.name, _curve(scenario)} & set(names):
                continue
        elif scenario.name not in names:
            continue
        plan = scenario.quick if quick else scenario.full
        plan = replace(plan, noise=noise, blocks=blocks_wanted or plan.blocks)
        chosen.append((scenario.with_again() if again else scenario, plan))
    choice = Choice(tuple(chosen), not names or COST in names, quick, within or (QUICK if quick else math.inf))
    return choice if quick else _shortened(choice)


def _shortened(choice: Choice) -> Choice:
    """As much of it as there is time for: measurements are shorter, though no shorter than in a quick run, and there is
    a most of blocks for all, though no fewer than it takes to say something.
    """
    share = min(choice.within / max(sum(choice.seconds().values()), 1), 1)
    scenarios = [
        (one, replace(plan, seconds=max(plan.seconds * share, min(one.quick.seconds, plan.seconds))))
        for one, plan in choice.scenarios
    ]
    most = max((plan.blocks for _, plan in scenarios), default=0)
    while True:
        found = replace(
            choice, scenarios=tuple((one, replace(plan, blocks=min(plan.blocks, most))) for one, plan in scenarios)
        )
        if most <= MIN_BLOCKS or sum(found.seconds().values()) <= choice.within:
            return found
        most -= 1


def measure(choice: Choice, found: Results) -> None:
    """Fill FOUND. A scenario that fails is noted there, and the next one begins; raises what failed if nothing could be
    measured at all (PydpError, EbpfError, OSError).
    """
    failed: list[Exception] = []
    seconds = choice.seconds()
    deadline = time.monotonic() + choice.within
    with watching(seconds) as watch:
        for scenario, plan in choice.scenarios:
            watch.begin(scenario.name)
            if choice.within < math.inf:
                plan = replace(plan, within=_share(seconds, scenario, deadline - time.monotonic()))
            if error := _measure_scenario(scenario, plan, found, watch):
                failed.append(error)
            del seconds[scenario.name]
        if choice.cost:
            watch.begin(COST)
            for cost in costs.measure(rounds=5 if choice.quick else 15, repeat=100_000 if choice.quick else 200_000):
                found.costs.append(cost)
    if failed and not found.costs and not any(scenario.paths for scenario in found.scenarios):
        raise failed[0]


def _measure_scenario(scenario: Scenario, plan: Plan, found: Results, watch: Watch) -> Exception | None:
    """Gives what it failed with."""
    series = blocks.Series()
    fault = ""
    try:
        with ExitStack() as stack:
            subjects = scenario.build(stack)
            blocks.run(
                subjects, plan, series,
                lambda done: watch.reach((done + 1) / (plan.blocks + 1), f"block {done + 1} of {plan.blocks}"),
            )  # fmt: skip
    except (PydpError, EbpfError, OSError) as error:
        fault = str(error)
        return error
    finally:
        if series.blocks or fault:
            found.scenarios.append(evaluate(scenario, series, fault))
    return None


def _share(seconds: dict[str, float], scenario: Scenario, left: float) -> float:
    """Seconds for the blocks of a scenario, when so many are left for all whose SECONDS are given."""
    share = left * seconds[scenario.name] / sum(seconds.values())
    return max(_LEAST, share - sum(path.slow for path in scenario.paths))


def _curve(scenario: Scenario) -> str:
    return scenario.point.curve if scenario.point else ""


def _groups(scenario: Scenario) -> set[str]:
    return {scenario.suite, _curve(scenario)} - {""}


def _near(name: str) -> str:
    known = [*suites(), *(scenario.name for scenario in SCENARIOS)]
    near = difflib.get_close_matches(name, known, n=_MANY)
    return f"did you mean {' or '.join(near)}?" if near else "`pydp bench --list` names them"
