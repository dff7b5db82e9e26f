# SPDX-License-Identifier: Apache-2.0
"""Two runs compared: by the ratios of pydp to what was measured beside it, since absolute times mean nothing on another
day.

A change is claimed when its interval lies beyond the tolerance. There are many comparisons in a run, and of many 95 %
intervals some miss: the interval of each is as much wider as it takes for all of them to hold together with 95 %
(Bonferroni).
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median

from pydp.bench.results import ComparisonResult, Cost, Results, ScenarioResult
from pydp.bench.statistics import MIN_BLOCKS, Interval, block_ratio

TOLERANCE = 0.05  # share: two runs of the same programs differ by as much, as each is laid out in memory anew
_CONFIDENCE = 0.95
_RESAMPLES = 4000


class Change(StrEnum):
    """What can be said of a comparison that both runs have."""

    SAME = "no difference seen"
    BETTER = "better"
    WORSE = "worse"
    UNCLEAR = "too few blocks to tell"


@dataclass(frozen=True, slots=True)
class Difference:
    """A comparison in both runs: ``before`` and ``after`` are its medians, ``ratio`` is after by before, above 1 being
    better.
    """

    name: str
    before: float
    after: float
    ratio: Interval
    change: Change


@dataclass(frozen=True, slots=True)
class _Pair:
    """The ratios of both runs, block by block; with ``less`` the smaller are the better."""

    name: str
    before: Sequence[float]
    after: Sequence[float]
    less: bool


def differences(before: Results, after: Results, *, tolerance: float = TOLERANCE) -> list[Difference]:
    """All that can be compared, in the order of AFTER."""
    pairs = [*_scenario_pairs(before, after), *_cost_pairs(before, after)]
    told = [pair for pair in pairs if min(len(pair.before), len(pair.after)) >= MIN_BLOCKS]
    confidence = 1 - (1 - _CONFIDENCE) / max(len(told), 1)
    return [_difference(pair, confidence, tolerance) for pair in pairs]


def missing(before: Results, after: Results) -> list[str]:
    """Scenarios of BEFORE that AFTER has not measured, or not to the end."""
    there = {scenario.name for scenario in after.scenarios if scenario.paths}
    return [scenario.name for scenario in before.scenarios if scenario.paths and scenario.name not in there]


def quotient(before: Sequence[float], after: Sequence[float], confidence: float) -> Interval:
    """The median of AFTER by that of BEFORE, which are independent, with its percentile bootstrap interval."""
    draw = random.Random(0)
    logs = [[math.log(value) for value in values] for values in (before, after)]
    first, second = logs
    found = sorted(
        median(draw.choices(second, k=len(second))) - median(draw.choices(first, k=len(first)))
        for _ in range(_RESAMPLES)
    )
    tail = (1 - confidence) / 2
    low, high = found[math.floor(tail * (_RESAMPLES - 1))], found[math.ceil((1 - tail) * (_RESAMPLES - 1))]
    return Interval(math.exp(median(second) - median(first)), math.exp(low), math.exp(high))


def lines(found: Sequence[Difference]) -> Iterator[str]:
    """For people: a table, what has changed first."""
    from tabulate import tabulate

    order = [Change.WORSE, Change.BETTER, Change.SAME, Change.UNCLEAR]
    rows = [
        [
            one.change.value, one.name, f"{one.before:.3g}", f"{one.after:.3g}", f"{one.ratio.median:.3f}",
            f"{one.ratio.low:.3g} - {one.ratio.high:.3g}",
        ]
        for one in sorted(found, key=lambda one: order.index(one.change))
    ]  # fmt: skip
    head = ["", "comparison", "before", "after", "change", f"{100 * _CONFIDENCE:.0f} % for all together"]
    yield tabulate(rows, head, tablefmt="simple", disable_numparse=True)


def _difference(pair: _Pair, confidence: float, tolerance: float) -> Difference:
    before, after = (pair.after, pair.before) if pair.less else (pair.before, pair.after)
    ratio = quotient(before, after, confidence)
    if min(len(before), len(after)) < MIN_BLOCKS:
        change = Change.UNCLEAR
    elif ratio.high < 1 - tolerance:
        change = Change.WORSE
    else:
        change = Change.BETTER if ratio.low > 1 + tolerance else Change.SAME
    return Difference(pair.name, median(pair.before), median(pair.after), ratio, change)


def _scenario_pairs(before: Results, after: Results) -> Iterator[_Pair]:
    known = {scenario.name: scenario for scenario in before.scenarios}
    for scenario in after.scenarios:
        for one in scenario.comparisons:
            ratios = _ratios(known.get(scenario.name), one)
            if ratios and one.ratios:
                name = f"{scenario.name}: {one.path} / {one.against}" + (", per CPU time" if one.per_cpu else "")
                yield _Pair(name, ratios, one.ratios, scenario.less and not one.per_cpu)


def _ratios(scenario: ScenarioResult | None, wanted: ComparisonResult) -> Sequence[float]:
    """Those of a comparison, also where the fastest of several to be compared with was another one then."""
    if scenario is None:
        return ()
    if wanted.per_cpu:
        same = (wanted.path, wanted.against, True)
        return next((one.ratios for one in scenario.comparisons if (one.path, one.against, one.per_cpu) == same), ())
    if not {wanted.path, wanted.against} <= scenario.paths.keys():
        return ()
    mine, other = (_blocks(scenario.paths[name].values) for name in (wanted.path, wanted.against))
    return [block_ratio(one, two) for one, two in zip(mine, other, strict=True)]


def _blocks(values: Sequence[float]) -> list[Sequence[float]]:
    """Each path is measured twice in a block."""
    return [values[at : at + 2] for at in range(0, len(values), 2)]


def _cost_pairs(before: Results, after: Results) -> Iterator[_Pair]:
    known = {_named(cost): cost.ratios for cost in before.costs}
    for cost in after.costs:
        ratios = known.get(_named(cost))
        if ratios and cost.ratios:
            yield _Pair(f"cost of {_named(cost)}", ratios, cost.ratios, less=True)


def _named(cost: Cost) -> str:
    words = (cost.title, cost.hook, f"{cost.entries} entries" if cost.entries else "", cost.distribution)
    return ", ".join(word for word in words if word)
