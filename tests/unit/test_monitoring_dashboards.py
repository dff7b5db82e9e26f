# SPDX-License-Identifier: Apache-2.0
"""Dashboards: what is kept is what their sources make, and all that they ask for exists."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from pydp.metrics.families import FAMILIES
from pydp.modes import MODES
from pydp.monitoring import GRAFANA, PROMETHEUS
from pydp.monitoring.dashboards import BOARDS, rendered
from pydp.monitoring.dashboards.plots import Board

KEPT = GRAFANA / "dashboards"
UNITS = {"pps", "bps", "percentunit", "s", "ops", "short", "none"}
# What the PromQL of our dashboards has besides metrics and labels.
METRIC = re.compile(r"\b(?:[a-z_]+:)?pydp_[a-z_0-9]+(?::[a-z_0-9]+)?\b|\bup\b")
each = pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)


def panels(board: Board) -> Iterator[dict[str, Any]]:
    yield from json.loads((KEPT / f"{board.uid}.json").read_text())["panels"]


def test_what_is_kept_is_up_to_date() -> None:
    kept = {path.name: path.read_text(encoding="utf-8") for path in KEPT.glob("*.json")}
    assert kept == rendered(), "python -m pydp.monitoring writes them anew"


def test_there_is_one_for_each_mode_that_carries_packets() -> None:
    assert {board.mode for board in BOARDS} == {"", *MODES} - {"count"}


@each
def test_queries_ask_for_metrics_that_there_are(board: Board) -> None:
    recorded = re.findall(r"record: (\S+)", (PROMETHEUS / "recording.yml").read_text())
    for plot in board.plots:
        for query in plot.queries.values():
            asked = set(METRIC.findall(query))
            assert asked
            assert asked <= {*FAMILIES, *recorded, "up"}, plot.title


@each
def test_legends_name_labels_that_the_query_keeps(board: Board) -> None:
    for plot in board.plots:
        for legend, query in plot.queries.items():
            for label in re.findall(r"{{(\w+)}}", legend):
                assert label in query or "by (" not in query, (plot.title, legend)
        assert plot.unit in UNITS


@each
def test_panels_have_their_own_number_and_place(board: Board) -> None:
    found = list(panels(board))
    ids = [one["id"] for one in found]
    assert len(set(ids)) == len(ids) == len(list(board.plots)) + len(board.rows)
    taken = set()
    for one in found:
        place = one["gridPos"]
        assert 0 <= place["x"] < place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        taken |= cells
    assert {one["datasource"]["uid"] for one in found if one["type"] != "row"} == {"${datasource}"}


def test_provisioning_loads_them_from_one_folder() -> None:
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/pydp.yml").read_text())["datasources"]
    assert (source["type"], source["url"]) == ("prometheus", "${PROMETHEUS_URL}")
    interval = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == interval
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/pydp.yml").read_text())["providers"]
    assert (provider["type"], provider["allowUiUpdates"]) == ("file", False)
