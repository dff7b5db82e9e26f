# SPDX-License-Identifier: Apache-2.0
"""What was found, in the shape that `--json` gives."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path as File
from statistics import median
from typing import Any

from pydp.bench import noise
from pydp.bench.blocks import Series
from pydp.bench.scenario import Comparison, Scenario
from pydp.bench.statistics import Finding, Interval, bootstrap, ratio

VERSION = 1


@dataclass(frozen=True, slots=True)
class PathResult:
    """One path, over all its samples. ``values`` and ``median`` are in the scenario's unit (packets/s, bits/s, 1/s)."""

    title: str
    median: Interval
    cpu_ns: float | None
    lost: float | None
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ComparisonResult:
    """One path divided by another, in the blocks that counted."""

    path: str
    against: str
    per_cpu: bool
    ratio: Interval
    target: float | None
    finding: Finding | None


@dataclass(frozen=True, slots=True)
class ScenarioResult:
    """A scenario; without paths when no block counted."""

    name: str
    title: str
    unit: str
    scale: float
    cpu_per: str
    kept: int
    discarded: int
    reasons: tuple[str, ...]
    noise: str
    paths: Mapping[str, PathResult] = field(default_factory=dict)
    comparisons: tuple[ComparisonResult, ...] = ()


@dataclass(frozen=True, slots=True)
class Cost:
    """What a program costs per packet by test-run, ``ns`` with what calling it and varying the packet costs, ``own``
    without.
    """

    title: str
    hook: str
    entries: int
    distribution: str
    ns: Interval
    own: float


@dataclass(slots=True)
class Results:
    """All of a run. ``interrupted`` when it was ended early."""

    machine: Mapping[str, Any]
    scenarios: list[ScenarioResult] = field(default_factory=list)
    costs: list[Cost] = field(default_factory=list)
    interrupted: bool = False

    def missed(self) -> list[ComparisonResult]:
        """Targets that were not met, or of which nobody can tell."""
        return [
            one for scenario in self.scenarios for one in scenario.comparisons
            if one.finding not in (None, Finding.MET)
        ]  # fmt: skip

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {"version": VERSION, **asdict(self)}


def machine() -> dict[str, Any]:
    """Where this was measured."""
    return {
        "kernel": platform.release(),
        "cpu": _cpu_model(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "bridge_netfilter": False,  # pydp.lab switches it off where it makes its bridges
    }


def _cpu_model() -> str:
    for line in File("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model"):
            return value.strip()
    return platform.machine()


def evaluate(scenario: Scenario, series: Series) -> ScenarioResult:
    """Turn blocks into medians, ratios and findings."""
    told = noise.statement([block.noise for block in series.blocks])
    reasons = tuple(dict.fromkeys(block.why for block in series.blocks if block.why))
    found = ScenarioResult(
        scenario.name, scenario.title, scenario.unit, scenario.scale, scenario.cpu_per,
        len(series.kept), series.discarded, reasons, told,
    )  # fmt: skip
    if not series.kept:
        return found
    paths = {path.name: _path(path.title, series, path.name) for path in scenario.paths}
    comparisons = tuple(_compare(one, series, paths) for one in scenario.comparisons)
    return ScenarioResult(
        found.name, found.title, found.unit, found.scale, found.cpu_per,
        found.kept, found.discarded, found.reasons, found.noise, paths, comparisons,
    )  # fmt: skip


def _path(title: str, series: Series, name: str) -> PathResult:
    samples = series.samples(name)
    values = tuple(sample.value for sample in samples)
    return PathResult(
        title,
        bootstrap(values),
        _median([one.cpu_ns for one in samples]),
        _median([one.lost for one in samples]),
        values,
    )


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _compare(one: Comparison, series: Series, paths: Mapping[str, PathResult]) -> ComparisonResult:
    against = max(one.against, key=lambda name: paths[name].median.median)
    found = ratio(series.pairs(one.path, against, per_cpu=one.per_cpu))
    finding = one.target.judge(found, len(series.kept)) if one.target else None
    return ComparisonResult(one.path, against, one.per_cpu, found, one.target.at_least if one.target else None, finding)
