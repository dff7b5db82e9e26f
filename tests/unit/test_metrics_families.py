# SPDX-License-Identifier: Apache-2.0
"""The table of metrics keeps its promises: every one explained, bounded labels, the conventions of Prometheus."""

from __future__ import annotations

import pytest

from pydp.metrics.families import FAMILIES, Family

LABELS = {
    "path", "mode", "instance", "device", "direction", "hook", "verdict", "reason", "map", "kind", "collector",
    "name", "id", "tag", "version", "kernel", "vni", "remote", "service", "backend", "state", "tool",
    "action", "operation", "family", "table", "chain", "cpu",
}  # fmt: skip
ONLY_ON_INFO = {"name", "id", "tag", "version", "kernel"}
CONTRACT = {
    "pydp_path_packets_total": ("path", "mode", "instance", "device", "direction"),
    "pydp_path_bytes_total": ("path", "mode", "instance", "device", "direction"),
    "pydp_verdicts_total": ("instance", "device", "hook", "verdict", "reason"),
    "pydp_verdict_bytes_total": ("instance", "device", "hook", "verdict", "reason"),
    "pydp_path_drops_total": ("path", "mode", "instance", "device", "direction"),
    "pydp_path_punts_total": ("path", "mode", "instance", "device", "direction"),
    "pydp_fastpath_ratio": ("instance",),
    "pydp_map_entries": ("instance", "map"),
    "pydp_map_max_entries": ("instance", "map"),
    "pydp_map_operations_total": ("instance", "map", "operation"),
    "pydp_tunnel_packets_total": ("instance", "mode", "vni", "remote", "direction"),
    "pydp_tunnel_bytes_total": ("instance", "mode", "vni", "remote", "direction"),
    "pydp_tunnel_vteps": ("instance",),
    "pydp_tunnel_guests": ("instance",),
    "pydp_tunnel_max_guests": ("instance",),
    "pydp_collector_success": ("collector",),
    "pydp_collector_duration_seconds": ("collector",),
}
each = pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)


@each
def test_it_is_explained_in_one_line(family: Family) -> None:
    assert family.help.endswith(".")
    assert "\n" not in family.help
    assert "  " not in family.help
    assert "\\" not in family.help  # would need an escape on the page


@each
def test_labels_are_bounded(family: Family) -> None:
    assert set(family.labels) <= LABELS
    assert len(set(family.labels)) == len(family.labels)
    assert family.name.endswith("_info") or not set(family.labels) & ONLY_ON_INFO


@each
def test_name_and_kind_follow_the_conventions(family: Family) -> None:
    assert family.name.startswith("pydp_")
    assert family.kind in ("counter", "gauge")
    assert (family.kind == "counter") == family.name.endswith("_total")
    assert not any(unit in family.name for unit in ("milli", "micro", "nano", "kilo", "percent", "minutes"))


def test_names_that_other_tools_rely_on() -> None:
    assert {name: FAMILIES[name].labels for name in CONTRACT} == CONTRACT
