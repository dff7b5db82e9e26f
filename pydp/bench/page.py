# SPDX-License-Identifier: Apache-2.0
"""Results as one page: charts, tables, and what was measured where. It loads nothing, and runs no script."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydp.bench import charts, report
from pydp.bench.results import Results, ScenarioResult
from pydp.bench.summary import sentence
from pydp.errors import PydpError

_SUITES = {
    "bridge": "Bridge",
    "vxlan": "VXLAN",
    "ipip": "IPIP",
    "nat": "NAT and services",
    "macvlan": "macvlan",
    "ipvlan": "ipvlan",
}


@dataclass(frozen=True, slots=True)
class Part:
    """Scenarios that are shown together: one, or those of a curve."""

    title: str
    chart: str
    scenarios: tuple[ScenarioResult, ...]


@dataclass(frozen=True, slots=True)
class Chapter:
    """The parts of a suite."""

    name: str
    title: str
    parts: tuple[Part, ...]


def write(results: Results, path: Path) -> None:
    """Write the page. Raises PydpError when what it takes is not installed, OSError."""
    path.write_text(render(results), encoding="utf-8")


def render(results: Results) -> str:
    """The page. Raises PydpError when what it takes is not installed."""
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise PydpError("pages need jinja2", hint="pip install 'pydp[report]'") from error
    environment = Environment(
        loader=PackageLoader("pydp.bench"), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=StrictUndefined,
    )  # fmt: skip
    environment.filters |= {
        "sentence": sentence, "interval": report.interval, "finding": report.finding,
        "delay_columns": report.delay_columns, "delay_cells": report.delay_cells,
    }  # fmt: skip
    return environment.get_template("page.html.j2").render(
        results=results, chapters=list(_chapters(results)), roles=charts.roles(),
        cost_chart=charts.cost_bars(results.costs) if results.costs else "", command=command(results.options),
    )  # fmt: skip


def command(options: Any) -> str:
    """What measures all of it again."""
    words = ["pydp", "bench", *options.get("what", ())]
    words += [f"--{name}" for name in ("quick", "aa") if options.get(name)]
    words += [f"--{name}={options[name]}" for name in ("blocks", "within", "noise") if options.get(name) is not None]
    return shlex.join([*words, "--json=results.json", "--html=results.html"])


def _chapters(results: Results) -> Iterator[Chapter]:
    for suite, scenarios in itertools.groupby(results.scenarios, key=lambda one: one.suite):
        parts = tuple(_part(tuple(some)) for _, some in itertools.groupby(scenarios, key=_together))
        yield Chapter(suite, _SUITES.get(suite, suite), parts)


def _together(scenario: ScenarioResult) -> str:
    return scenario.point.curve if scenario.point else scenario.name


def _part(scenarios: tuple[ScenarioResult, ...]) -> Part:
    first, measured = scenarios[0], [scenario for scenario in scenarios if scenario.paths]
    if not first.point:
        return Part(first.title, charts.bars(first) if measured else "", scenarios)
    return Part(first.point.title, charts.curve(measured) if measured else "", scenarios)
