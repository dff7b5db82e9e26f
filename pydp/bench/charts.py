# SPDX-License-Identifier: Apache-2.0
"""Charts as SVG: Vega-Lite, drawn by vl-convert into static text that needs no script.

Colours are CSS variables, so that the page that holds a chart decides about light and dark.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydp.bench.results import Cost, ScenarioResult
from pydp.bench.scenario import Role
from pydp.errors import PydpError

_WIDTH = 320  # as much as a telephone shows without making letters smaller
_STEP = 42  # height of a bar and its name
_FONT = 13
_MARGIN = {"left": 8, "right": 14, "top": 5, "bottom": 5}  # the reader's font may be wider than the one measured here
_INK, _GRID, _INTERVAL = "var(--ink)", "var(--grid)", "var(--interval)"
COLOURS = {Role.KERNEL: "var(--kernel)", Role.EBPF: "var(--ebpf)", Role.LIMIT: "var(--limit)"}
_DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3])  # of the ways of one role, which share their colour
_CONFIG = {
    "font": "system-ui, sans-serif",
    "axis": {
        "labelColor": _INK, "titleColor": _INK, "gridColor": _GRID, "domainColor": _GRID, "tickColor": _GRID,
        "labelFontSize": _FONT, "titleFontSize": _FONT, "titleFontWeight": "normal", "labelLimit": 260,
    },
    "legend": {"labelColor": _INK, "titleColor": _INK, "labelFontSize": _FONT, "labelLimit": 260, "symbolSize": 250},
    "view": {"stroke": None},
}  # fmt: skip


def bars(scenario: ScenarioResult) -> str:
    """A bar for each way, with the interval of its median. Raises PydpError without vl-convert."""
    rows = [
        {"way": path.title, "role": path.role, **_interval(path.median.map(1 / scenario.scale))}
        for path in scenario.paths.values()
    ]
    return _svg(_bars(rows, scenario.unit), f"Bar chart: {scenario.title}, {scenario.unit} by way")


def cost_bars(costs: Sequence[Cost]) -> str:
    """A bar for each program. Raises PydpError without vl-convert."""
    rows = [
        {
            "way": ", ".join(filter(None, (one.hook, one.title, str(one.entries or ""), one.distribution))),
            "role": Role.EBPF if one.entries else Role.LIMIT,
            **_interval(one.ns),
        }
        for one in costs
    ]
    return _svg(_bars(rows, "ns per packet"), "Bar chart: what programs cost, ns per packet")


def curve(scenarios: Sequence[ScenarioResult]) -> str:
    """Lines over what the scenarios of one curve differ in, both axes logarithmic, with the intervals of the medians.
    Raises PydpError without vl-convert.
    """
    first = scenarios[0]
    if first.point is None:
        raise ValueError(f"{first.name} lies on no curve")
    rows, lines = [], dict[str, Role]()
    for scenario in scenarios:
        for path in scenario.paths.values():
            assert scenario.point is not None
            line = f"{path.title}, {scenario.point.series}" if scenario.point.series else path.title
            lines[line] = path.role
            rows.append({"line": line, "at": scenario.point.at, **_interval(path.median.map(1 / scenario.scale))})
    return _svg(_curve(rows, lines, first.point.axis, first.unit), f"Line chart: {first.point.title}, {first.unit}")


def _interval(one: Any) -> dict[str, float]:
    return {"median": one.median, "low": one.low, "high": one.high}


def _bars(rows: Sequence[Mapping[str, Any]], unit: str) -> dict[str, Any]:
    names = [row["way"] for row in rows]
    return {
        "width": _WIDTH,
        "height": {"step": _STEP},
        "data": {"values": list(rows)},
        "encoding": {"y": {"field": "way", "type": "nominal", "sort": names, "axis": None}},
        "layer": [
            {
                "mark": {"type": "bar", "height": 16, "yOffset": 9},
                "encoding": {
                    "x": {"field": "median", "type": "quantitative", "title": unit, "axis": {"tickCount": 5}},
                    "color": {"field": "role", "type": "nominal", "legend": None, "scale": _scale(COLOURS)},
                },
            },
            {
                "mark": {"type": "rule", "strokeWidth": 2, "color": _INTERVAL, "yOffset": 9},
                "encoding": {"x": {"field": "low", "type": "quantitative"}, "x2": {"field": "high"}},
            },
            {
                "mark": {"type": "text", "align": "left", "dy": -9, "fontSize": _FONT, "color": _INK},
                "encoding": {"x": {"value": 0}, "text": {"field": "way"}},
            },
        ],
    }


def _curve(rows: Sequence[Mapping[str, Any]], lines: Mapping[str, Role], axis: str, unit: str) -> dict[str, Any]:
    colours = {line: COLOURS[role] for line, role in lines.items()}
    legend = {"orient": "bottom", "columns": 1, "title": None, "symbolType": "stroke"}
    log = {"type": "log", "nice": False}
    return {
        "width": _WIDTH,
        "height": 240,
        "data": {"values": list(rows)},
        "encoding": {
            "x": {"field": "at", "type": "quantitative", "title": axis, "scale": log, "axis": {"tickCount": 6}},
            "color": {"field": "line", "type": "nominal", "scale": _scale(colours), "legend": legend},
        },
        "layer": [
            {
                "mark": {"type": "line", "strokeWidth": 2},
                "encoding": {
                    "y": {"field": "median", "type": "quantitative", "title": unit, "scale": log},
                    "strokeDash": {
                        "field": "line", "type": "nominal", "scale": _scale(_dashes(lines)), "legend": legend,
                    },
                },
            },
            {"mark": {"type": "point", "filled": True}, "encoding": {"y": {"field": "median", "type": "quantitative"}}},
            {
                "mark": {"type": "rule", "strokeWidth": 2},
                "encoding": {"y": {"field": "low", "type": "quantitative"}, "y2": {"field": "high"}},
            },
        ],
    }  # fmt: skip


def _dashes(lines: Mapping[str, Role]) -> dict[str, Any]:
    seen: dict[Role, int] = {}
    found = {}
    for line, role in lines.items():
        found[line] = _DASHES[seen.get(role, 0) % len(_DASHES)]
        seen[role] = seen.get(role, 0) + 1
    return found


def _scale(given: Mapping[Any, Any]) -> dict[str, Any]:
    return {"domain": list(given), "range": list(given.values())}


def _svg(spec: Mapping[str, Any], label: str) -> str:
    """Scaled to the width there is, and named for those who do not see it."""
    try:
        from vl_convert import vegalite_to_svg
    except ImportError as error:
        raise PydpError("pages with charts need vl-convert", hint="pip install 'pydp[report]'") from error
    drawn: str = vegalite_to_svg({**spec, "background": None, "padding": _MARGIN, "config": _CONFIG})
    head, rest = drawn.split(">", 1)
    head = re.sub(r' (?:class|width|height)="[^"]*"', "", head)
    return f'{head} class="chart" role="img" aria-label="{_quoted(label)}">{rest}'


def _quoted(text: str) -> str:
    from html import escape

    return escape(text)


def roles() -> Iterable[tuple[str, str]]:
    """What each colour stands for."""
    names = {Role.KERNEL: "the kernel's own path", Role.EBPF: "pydp", Role.LIMIT: "the bare hook: the limit"}
    return [(role.value, names[role]) for role in Role]
