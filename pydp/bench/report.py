# SPDX-License-Identifier: Apache-2.0
"""Results as tables for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydp.bench.machine import facts
from pydp.bench.results import ComparisonResult, Cost, PathResult, Results, ScenarioResult
from pydp.bench.statistics import MIN_BLOCKS, Interval


def text(results: Results) -> str:
    """The whole report."""
    return "\n".join(_lines(results))


def _lines(results: Results) -> Iterator[str]:
    yield facts(results.machine)
    yield "Counted at the receiver. Medians, and ratios within interleaved blocks, with 95 % intervals (bootstrap)."
    yield "The kernel's bridge runs without bridge-nf-call-iptables, as on distributions that do not load br_netfilter."
    for scenario in results.scenarios:
        yield ""
        yield from scenario_lines(scenario)
    if results.costs:
        yield ""
        yield from _cost_lines(results.costs)
    if faults := results.faults():
        yield ""
        yield from (f"FAULT: {fault}" for fault in faults)
    if results.interrupted:
        yield ""
        yield "Interrupted: the above is what was measured until then."


def scenario_lines(scenario: ScenarioResult) -> Iterator[str]:
    """One scenario: its paths, its comparisons, its noise."""
    yield f"## {scenario.title}  ({scenario.name})"
    if scenario.paths:
        yield _paths(scenario)
        yield ""
        yield _comparisons(scenario)
    else:
        yield f"no block counted: {'; '.join(scenario.reasons) or 'none was finished'}"
    if scenario.fault:
        yield f"FAULT: {scenario.fault}"
    yield f"{scenario.kept} blocks kept, {scenario.discarded} discarded; {scenario.noise}"


def _paths(scenario: ScenarioResult) -> str:
    head = ["path", scenario.unit, "95 %"]
    with_cpu = any(path.cpu_ns is not None for path in scenario.paths.values())
    with_loss = any(path.lost is not None for path in scenario.paths.values())
    with_order = any(path.disordered is not None for path in scenario.paths.values())
    with_delays = delay_columns(scenario)
    if with_cpu:
        head.append(f"CPU ns/{scenario.cpu_per}")
    if with_loss:
        head.append("lost")
    if with_order:
        head.append("disordered")
    head += with_delays
    rows = []
    for path in scenario.paths.values():
        shown = path.median.map(1 / scenario.scale)
        row = [path.title, f"{shown.median:.3g}", interval(shown)]
        if with_cpu:
            row.append("" if path.cpu_ns is None else f"{path.cpu_ns:.0f}")
        if with_loss:
            row.append(_share(path.lost))
        if with_order:
            row.append(_share(path.disordered))
        rows.append([*row, *delay_cells(path)] if with_delays else row)
    return _table(rows, head)


def delay_columns(scenario: ScenarioResult) -> list[str]:
    """What is shown of delays, where there are any: percentiles, and at what rate."""
    names = next((list(path.percentiles) for path in scenario.paths.values() if path.percentiles), [])
    return [*(f"{name} %, us" for name in names), "at M/s"] if names else []


def delay_cells(path: PathResult) -> list[str]:
    """Those of a path, as the columns say."""
    rate = "" if path.offered is None else f"{path.offered / 1e6:.3g}"
    return [*(f"{1e6 * value:.3g}" for value in path.percentiles.values()), rate]


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2g} %"


def _comparisons(scenario: ScenarioResult) -> str:
    rows = [
        [_what(scenario, one), f"{one.ratio.median:.2f}", interval(one.ratio), _target(one), finding(one)]
        for one in scenario.comparisons
    ]
    return _table(rows, ["comparison", "ratio", "95 %", "target", ""])


def _what(scenario: ScenarioResult, one: ComparisonResult) -> str:
    what = f"{scenario.paths[one.path].title} / {scenario.paths[one.against].title}"
    return f"{what}, per CPU time" if one.per_cpu else what


def _target(one: ComparisonResult) -> str:
    return "" if one.target is None else f">= {one.target:g}"


def finding(one: ComparisonResult) -> str:
    """The verdict; without a target whether there is a difference at all."""
    if one.finding is not None:
        return one.finding.value
    if len(one.ratios) < MIN_BLOCKS:
        return "too few blocks to tell"
    if one.ratio.low <= 1 <= one.ratio.high:
        return "no difference seen"
    return "more" if one.ratio.low > 1 else "less"


def _cost_lines(costs: list[Cost]) -> Iterator[str]:
    yield "## cost of a program per packet, by test-run"
    rows = [
        [
            one.hook,
            one.title,
            one.entries or "",
            one.distribution,
            f"{one.ns.median:.0f}",
            interval(one.ns),
            f"{one.own:.0f}",
        ]
        for one in costs
    ]
    yield _table(rows, ["hook", "program", "FDB", "addresses", "ns", "95 %", "own ns"])
    yield "own: without calling a program and varying the packet. Every packet has other addresses, drawn beforehand."


def interval(one: Interval) -> str:
    """Both ends, to three digits."""
    return f"{one.low:.3g} - {one.high:.3g}"


def _table(rows: Sequence[Sequence[object]], head: list[str]) -> str:
    from tabulate import tabulate

    return str(tabulate(rows, head, tablefmt="simple", disable_numparse=True))
