# SPDX-License-Identifier: Apache-2.0
"""What a scenario says, in a sentence."""

from __future__ import annotations

from collections.abc import Iterator

from pydp.bench.results import ComparisonResult, ScenarioResult
from pydp.bench.scenario import Role
from pydp.bench.statistics import MIN_BLOCKS


def sentence(scenario: ScenarioResult) -> str:
    """The first comparison with the kernel and the first with the limit, as far as their intervals allow to speak."""
    told = list(_clauses(scenario))
    if not told:
        return f"Nothing can be said: {scenario.fault or '; '.join(scenario.reasons) or 'no block was finished'}."
    return "; ".join(told) + "."


def _clauses(scenario: ScenarioResult) -> Iterator[str]:
    told = set()
    for one in scenario.comparisons:
        role = scenario.paths[one.against].role
        if not one.per_cpu and role not in told:
            told.add(role)
            yield _clause(scenario, one, role)


def _clause(scenario: ScenarioResult, one: ComparisonResult, role: Role) -> str:
    mine, other = (scenario.paths[name].title for name in (one.path, one.against))
    ratio, bounds = one.ratio, f"95 % interval {one.ratio.low:.2f} to {one.ratio.high:.2f}"
    if len(one.ratios) < MIN_BLOCKS:
        return f"{mine} reached {ratio.median:.2f} times {other}, in too few blocks for an interval"
    if ratio.low <= 1 <= ratio.high:
        return f"between {mine} and {other} no difference was seen ({bounds})"
    if role is Role.LIMIT:
        return f"{mine} keeps {100 * ratio.median:.0f} % of {other} ({bounds})"
    if scenario.less:
        word = "less" if ratio.median < 1 else "more"
        return f"{mine} takes {_factor(ratio.median)} {word} than {other} ({bounds})"
    return f"{mine} carries {ratio.median:.2f} times as much as {other} ({bounds})"


def _factor(ratio: float) -> str:
    return f"{100 * abs(1 - ratio):.0f} %"
