# SPDX-License-Identifier: Apache-2.0
"""Kernel devices as the exporter finds them, compared with what ip(8) says."""

from __future__ import annotations

import json
import os
from collections.abc import Callable

import pytest

from pydp.kernel.linkstats import VxlanDevice, read_bridge_names, read_bridges, read_link_stats, read_vxlan_devices
from pydp.kernel.softnet import STATES, decode_softnet, decode_times, read_machine
from pydp.lab import Namespace, Segment, ping

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
    assert stats[index["vx7"]].tx_errors == shown[index["vx7"]]["tx"]["errors"]


def test_a_bridge_says_how_many_addresses_it_learned(segment: Callable[..., Segment]) -> None:
    made = segment(2, kernel_bridge=True)
    assert ping(made[0].ns, made[1].address4, count=2, interval=0.01).lost == 0
    found = made.sw.call(read_bridges)[made.bridge_index]
    if found.learned is None:
        pytest.skip("this kernel does not count what bridges learned (Linux 6.7)")
    shown = json.loads(made.sw.run(["bridge", "-j", "fdb", "show", "br", "br0", "dynamic"]).stdout)
    assert (found.name, found.learned, found.max_learned) == ("br0", len(shown), 0)
    assert len(shown) == 2


def test_the_machine_says_what_its_cpus_did() -> None:
    found = read_machine()
    assert sum(one.packets for one in found.softnet) > 0
    assert set(found.seconds) == set(STATES)
    assert found.seconds["idle"] > 0


def test_softnet_and_times_as_the_kernel_writes_them() -> None:
    line = "00000010 00000002 0000000a 00000000 0 0 0 0 0 0 0 0 {} 0 0"
    found = decode_softnet("\n".join(line.format(f"{cpu:08x}") for cpu in (0, 3)))
    assert [(one.cpu, one.packets, one.dropped, one.squeezed) for one in found] == [("0", 16, 2, 10), ("3", 16, 2, 10)]
    assert decode_softnet("10 2 a 0 0 0 0 0 0 0")[0].cpu == "0"  # before Linux 5.10
    ticks = os.sysconf("SC_CLK_TCK")
    times = decode_times(f"cpu  {ticks} 0 {2 * ticks} 0 0 0 {3 * ticks} 0 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n")
    assert (times["user"], times["system"], times["softirq"]) == (1, 2, 3)
