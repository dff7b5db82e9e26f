# SPDX-License-Identifier: Apache-2.0
"""Kernel devices as the exporter finds them, compared with what ip(8) says."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from pydp.kernel.linkstats import VxlanDevice, read_bridge_names, read_link_stats, read_vxlan_devices
from pydp.lab import Namespace

pytestmark = pytest.mark.usefixtures("requires_root")


def test_bridges_and_vxlan_devices_with_their_places(namespace: Callable[..., Namespace]) -> None:
    ns = namespace()
    for words in (
        ("br0", "type", "bridge"),
        ("u0", "type", "veth", "peer", "name", "u1"),
        ("vx7", "type", "vxlan", "id", "7", "dev", "u0", "dstport", "4789"),
        ("vx8", "type", "vxlan", "external", "dstport", "4790"),
    ):
        ns.run(["ip", "link", "add", *words])
    ns.run(["ip", "link", "set", "vx7", "master", "br0"])
    index = {name: ns.ifindex(name) for name in ("br0", "u0", "vx7", "vx8")}
    assert ns.call(read_bridge_names) == {index["br0"]: "br0"}
    assert ns.call(read_vxlan_devices) == {
        index["vx7"]: VxlanDevice("vx7", index["br0"], index["u0"]),
        index["vx8"]: VxlanDevice("vx8", 0, 0),
    }
    shown = {one["ifindex"]: one["stats64"] for one in json.loads(ns.run(["ip", "-s", "-j", "link"]).stdout)}
    stats = ns.call(read_link_stats)
    assert stats.keys() == shown.keys()
    assert stats[index["vx7"]].tx_packets == shown[index["vx7"]]["tx"]["packets"]
