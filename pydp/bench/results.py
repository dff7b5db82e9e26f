# SPDX-License-Identifier: Apache-2.0
"""What was found, in the shape that `--json` gives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from pydp.bench import noise
from pydp.bench.blocks import Series
from pydp.bench.machine import machine, now, versions
from pydp.bench.scenario import Comparison, Point, Role, Scenario
from pydp.bench.statistics import Finding, Interval, block_ratio, bootstrap, ratio

VERSION = 2
# The share of frames that may get lost in the median of all measurements: bursts of the scheduler may overflow a ring.
LOSS = 0.0005


@dataclass(frozen=True, slots=True)
class PathResult:
    """One path, over all its samples. ``values`` and ``median`` are in the scenario's unit (packets/s, bits/s, 1/s);
    of delays there are ``percentiles``, in seconds, and how many packets a second were ``offered``.
    """

    title: str
    role: Role
    median: Interval
    cpu_ns: float | None
    lost: float | None
    disordered: float | None
    values: tuple[float, ...]
    offered: float | None = None
    percentiles: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ComparisonResult:
    """One path divided by another, in the blocks that counted: ``ratios``, block by block."""

    path: str
    against: str
    per_cpu: bool
    ratio: Interval
    target: float | None
    finding: Finding | None
    ratios: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class ScenarioResult:
    """A scenario; without paths when no block counted. ``fault`` says what went wrong, or is wrong with what pydp
    carried, and is empty when nothing is.
    """

    name: str
    suite: str
    title: str
    unit: str
    scale: float
    less: bool
    cpu_per: str
    point: Point | None
    kept: int
    discarded: int
    reasons: tuple[str, ...]
    noise: str
    fault: str = ""
    paths: Mapping[str, PathResult] = field(default_factory=dict)
    comparisons: tuple[ComparisonResult, ...] = ()


@dataclass(frozen=True, slots=True)
class Cost:
    """What a program costs per packet by test-run, ``ns`` with what calling it and varying the packet costs, ``own``
    without; ``ratios`` is ns by that, round by round.
    """

    title: str
    hook: str
    entries: int
    distribution: str
    ns: Interval
    own: float
    ratios: tuple[float, ...] = ()


@dataclass(slots=True)
class Results:
    """All of a run, with the ``options`` that it had. ``interrupted`` when it was ended early."""

    machine: Mapping[str, Any]
    versions: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    begun: str = ""
    ended: str = ""
    scenarios: list[ScenarioResult] = field(default_factory=list)
    costs: list[Cost] = field(default_factory=list)
    interrupted: bool = False

    @classmethod
    def begin(cls, options: Mapping[str, Any]) -> Results:
        """Those of a run that begins here and now."""
        return cls(machine(), versions(), options, now())

    def missed(self) -> list[ComparisonResult]:
        """Targets that were not met, or of which nobody can tell."""
        return [
            one for scenario in self.scenarios for one in scenario.comparisons
            if one.finding not in (None, Finding.MET)
        ]  # fmt: skip

    def faults(self) -> list[str]:
        """What went wrong, scenario by scenario."""
        return [f"{scenario.name}: {scenario.fault}" for scenario in self.scenarios if scenario.fault]

    def document(self) -> dict[str, Any]:
        """For JSON; schema.json says what it looks like."""
        return {"version": VERSION, **asdict(self)}


def evaluate(scenario: Scenario, series: Series, fault: str = "") -> ScenarioResult:
    """Turn blocks into medians, ratios and findings. FAULT is what ended the scenario."""
    paths: Mapping[str, PathResult] = {}
    comparisons: tuple[ComparisonResult, ...] = ()
    if series.kept:
        paths = {path.name: _path(path.title, path.role, series, path.name) for path in scenario.paths}
        comparisons = tuple(_compare(one, series, paths, less=scenario.less) for one in scenario.comparisons)
    return ScenarioResult(
        name=scenario.name, suite=scenario.suite, title=scenario.title, unit=scenario.unit, scale=scenario.scale,
        less=scenario.less, cpu_per=scenario.cpu_per, point=scenario.point,
        kept=len(series.kept), discarded=series.discarded,
        reasons=tuple(dict.fromkeys(block.why for block in series.blocks if block.why)),
        noise=noise.statement([block.noise for block in series.blocks]),
        fault=fault or _losses(paths.values()), paths=paths, comparisons=comparisons,
    )  # fmt: skip


def _losses(paths: Iterable[PathResult]) -> str:
    """Frames that pydp swallowed. What others lose is no fault of ours."""
    return "; ".join(
        f"{100 * path.lost:.2g} % of the frames that were sent through {path.title} did not arrive"
        for path in paths
        if path.role is Role.EBPF and path.lost is not None and path.lost > LOSS
    )


def _path(title: str, role: Role, series: Series, name: str) -> PathResult:
    samples = series.samples(name)
    values = tuple(sample.value for sample in samples)
    return PathResult(
        title, role, bootstrap(values),
        _median([one.cpu_ns for one in samples]),
        _median([one.lost for one in samples]),
        _median([one.disordered for one in samples]),
        values,
        _median([one.offered for one in samples]),
        {name: median(one.percentiles[name] for one in samples) for name in samples[0].percentiles},
    )  # fmt: skip


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _compare(one: Comparison, series: Series, paths: Mapping[str, PathResult], *, less: bool) -> ComparisonResult:
    best = min if less else max
    against = best(one.against, key=lambda name: paths[name].median.median)
    pairs = series.pairs(one.path, against, per_cpu=one.per_cpu)
    found = ratio(pairs)
    finding = one.target.judge(found, len(series.kept)) if one.target else None
    return ComparisonResult(
        one.path, against, one.per_cpu, found, one.target.at_least if one.target else None, finding,
        tuple(block_ratio(mine, other) for mine, other in pairs),
    )  # fmt: skip
