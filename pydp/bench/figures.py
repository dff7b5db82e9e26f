# SPDX-License-Identifier: Apache-2.0
"""README's figures, from the results that are kept in results/bench.json: nobody writes a number by hand.

python -m pydp.bench.figures [README [RESULTS]]
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pydp.bench import document
from pydp.bench.machine import facts
from pydp.bench.results import ComparisonResult, PathResult, Results, ScenarioResult
from pydp.bench.scenario import Role
from pydp.bench.statistics import MIN_BLOCKS
from pydp.errors import PydpError, UsageError

BEGIN, END = "<!-- figures: `make figures` writes them from results/bench.json -->", "<!-- end of figures -->"
README, RESULTS = "README.md", "results/bench.json"
_NONE = ""


def text(results: Results) -> str:
    """What stands between the marks."""
    parts = (_origin(results), _rates(results), _delays(results), _costs(results), _faults(results))
    return "\n\n".join("\n".join(part) for part in map(list, parts) if part)


def replaced(readme: str, results: Results) -> str:
    """The page with the figures of these results. Raises UsageError when it has no place for them."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UsageError(f"README has no lines {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n\n{text(results)}\n\n{END}{after}"


def _origin(results: Results) -> Iterator[str]:
    told = results.versions
    yield (
        f"{facts(results.machine)}; pydp {told.get('pydp', '')}, from {results.begun} to {results.ended}. Medians, and "
        'ratios within interleaved blocks with 95 % intervals, bold where they exclude 1. "kernel" is the fastest of '
        'the kernel\'s own ways, "limit" the fastest bare program on that hook.'
    )


def _rates(results: Results) -> Iterator[str]:
    """All that is no latency; of a curve its first and last point."""
    shown = [one for one in results.scenarios if one.paths and not _has_delays(one)]
    rows = [_row(one) for _, some in itertools.groupby(shown, key=_together) for one in _ends(list(some))]
    yield from _table(("what", "kernel", "pydp", "pydp / kernel", "pydp / limit", "CPU ns, kernel", "pydp"), rows)


def _row(one: ScenarioResult) -> tuple[str, ...]:
    mine = one.paths.get("pydp")
    kernel = _against(one, Role.KERNEL)
    limit = _against(one, Role.LIMIT)
    other = one.paths[kernel.against] if kernel else None
    rest = [part for part in one.comparisons if part is not kernel and part is not limit and not part.per_cpu]
    title = one.title
    if not kernel and not limit and rest:  # such as pydp beside itself without counters
        title += f": {_ratio(rest[0])} of {one.paths[rest[0].against].title}"
    return (
        title,
        _value(one, other),
        _value(one, mine),
        _ratio(kernel),
        _ratio(limit),
        _cpu(one, other),
        _cpu(one, mine),
    )


def _against(one: ScenarioResult, role: Role) -> ComparisonResult | None:
    """pydp compared with the best of a role."""
    found = [
        part for part in one.comparisons
        if part.path == "pydp" and not part.per_cpu and one.paths[part.against].role is role
    ]  # fmt: skip
    return (max if one.less else min)(found, key=lambda part: part.ratio.median) if found else None


def _delays(results: Results) -> Iterator[str]:
    """A row for each load: the median, the 99th and the 99.9th percentile of every role."""
    rows = []
    for one in results.scenarios:
        if not _has_delays(one) or not one.point:
            continue
        mine, kernel, limit = one.paths.get("pydp"), _against(one, Role.KERNEL), _against(one, Role.LIMIT)
        others = [one.paths[part.against] if part else None for part in (kernel, limit)]
        load = f"{one.point.title}, {one.point.at:g} %"
        rows.append((load, _percentiles(others[0]), _percentiles(mine), _percentiles(others[1]), _ratio(kernel)))
    if rows:
        yield (
            "One-way latency in us, 50th / 90th / 99th / 99.9th percentile, at shares of the rate that each way "
            "carries without loss:"
        )
        yield ""
        head = ("64-byte packets, load", "kernel", "pydp", "limit", "pydp / kernel, median")
        yield from _table(head, rows)


def _costs(results: Results) -> Iterator[str]:
    if results.costs:
        rows = [
            (one.hook, one.title, f"{one.entries:,}" if one.entries else _NONE, one.distribution,
             f"{one.ns.median:.0f}", f"{one.own:.0f}")
            for one in results.costs
        ]  # fmt: skip
        yield "Programs by test-run, ns per packet; own: less what calling a program and varying the packet takes."
        yield ""
        yield from _table(("hook", "program", "FDB entries", "addresses", "ns", "own"), rows)


def _faults(results: Results) -> Iterator[str]:
    yield from (f"- fault: {fault}" for fault in results.faults())
    if results.interrupted:
        yield "- the run was interrupted"


def _has_delays(one: ScenarioResult) -> bool:
    return bool(one.point) and any(path.percentiles for path in one.paths.values())


def _together(one: ScenarioResult) -> tuple[str, str]:
    return (one.point.curve, one.point.series) if one.point else (one.name, "")


def _ends(some: Sequence[ScenarioResult]) -> Sequence[ScenarioResult]:
    return (some[0], some[-1]) if len(some) > 1 else some


def _value(one: ScenarioResult, path: PathResult | None) -> str:
    return f"{path.median.median / one.scale:.3g} {one.unit}" if path else _NONE


def _cpu(one: ScenarioResult, path: PathResult | None) -> str:
    return f"{path.cpu_ns:.0f}/{one.cpu_per}" if path and path.cpu_ns is not None else _NONE


def _percentiles(path: PathResult | None) -> str:
    return " / ".join(f"{1e6 * value:.3g}" for value in path.percentiles.values()) if path else _NONE


def _ratio(one: ComparisonResult | None) -> str:
    if one is None:
        return _NONE
    found = one.ratio
    if len(one.ratios) < MIN_BLOCKS:
        return f"{found.median:.2f} (too few blocks)"
    median = f"{found.median:.2f}" if found.low <= 1 <= found.high else f"**{found.median:.2f}**"
    return f"{median} ({found.low:.2f} - {found.high:.2f})"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    for row in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(row)} |".replace("|  |", "| |").replace("|  |", "| |")


def main(names: Sequence[str]) -> int:
    """Write them; gives the exit status."""
    readme, results = (Path(name) for name in (*names, *(README, RESULTS)[len(names) :]))
    try:
        readme.write_text(replaced(readme.read_text(encoding="utf-8"), document.load(results)), encoding="utf-8")
    except (PydpError, OSError) as error:
        print(f"figures: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
