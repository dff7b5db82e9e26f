# SPDX-License-Identifier: Apache-2.0
"""Vxlan devices and their FDB as pydp.kernel reads them, with iproute2 as second opinion."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

from pydp.kernel import View, read_vxlan_fdb
from pydp.lab import Namespace
from pydp.model import Vxlan, VxlanFdbEntry

Make = Callable[..., Namespace]

DEFAULT = "id 7 dstport 4789"
OPTIONS = (
    DEFAULT,
    "id 16777215 dstport 8472",
    f"{DEFAULT} local 192.0.2.1 remote 192.0.2.2 dev u0",
    f"{DEFAULT} local 2001:db8::1 remote 2001:db8::2",
    f"{DEFAULT} group 239.1.1.1 dev u0",
    f"{DEFAULT} group ff05::5 dev u0",
    f"{DEFAULT} srcport 1000 2000",
    f"{DEFAULT} ttl 9",
    f"{DEFAULT} ttl inherit",
    f"{DEFAULT} tos 0xb8",
    f"{DEFAULT} tos inherit",
    f"{DEFAULT} df set",
    f"{DEFAULT} df inherit",
    f"{DEFAULT} flowlabel 0x12345 local 2001:db8::1",
    f"{DEFAULT} nolearning",
    f"{DEFAULT} ageing 17",
    f"{DEFAULT} maxaddress 99",
    f"{DEFAULT} noudpcsum",
    f"{DEFAULT} udp6zerocsumtx",
    f"{DEFAULT} udp6zerocsumrx",
    f"{DEFAULT} remcsumtx",
    f"{DEFAULT} remcsumrx",
    f"{DEFAULT} proxy",
    f"{DEFAULT} rsc",
    f"{DEFAULT} l2miss",
    f"{DEFAULT} l3miss",
    f"{DEFAULT} gbp",
    "dstport 4789 external",
    "dstport 4790 external gpe",
    "dstport 4789 external vnifilter",
)


def shell(ns: Namespace, script: str) -> str:
    return str(ns.run(["sh", "-ec", script]).stdout)


def shown(ns: Namespace, command: str) -> Any:
    return json.loads(shell(ns, command))


def as_ip_shows(vxlan: Vxlan, view: View) -> dict[str, Any]:
    """A record in the terms of `ip -d -j link`, without what is off or 0 there."""
    over6 = ":" in vxlan.local + vxlan.remote + vxlan.group
    own = {
        "id": vxlan.vni,
        "link": view.name(vxlan.lower) if vxlan.lower else "",
        "local6" if over6 else "local": vxlan.local,
        "remote6" if over6 else "remote": vxlan.remote,
        "group6" if over6 else "group": vxlan.group,
        "port": vxlan.port,
        "port_range": dict(zip(("low", "high"), vxlan.port_range, strict=True)),
        "ttl": vxlan.ttl,
        "tos": "inherit" if vxlan.tos == 1 else vxlan.tos and f"{vxlan.tos:#x}",
        "df": vxlan.df,
        "label": f"{vxlan.label:#x}" if vxlan.label else 0,
        "ageing": int(vxlan.ageing),
        "limit": vxlan.limit,
        "udp_csum": vxlan.udp_csum,
        "udp_zero_csum6_tx": vxlan.udp6_zero_tx,
        "udp_zero_csum6_rx": vxlan.udp6_zero_rx,
        **{
            name: getattr(vxlan, name)
            for name in (
                "learning", "proxy", "rsc", "l2miss", "l3miss", "external", "gbp", "gpe", "vnifilter",
            )
        },
    }  # fmt: skip
    return {name: value for name, value in own.items() if value}


@pytest.mark.parametrize("options", OPTIONS)
def test_same_as_ip_link(namespace: Make, options: str) -> None:
    ns = namespace(ipv6=True)
    shell(ns, f"ip link add u0 type veth peer name u1; ip link add vx0 type vxlan {options}")
    view = ns.call(View.read)
    (vxlan,) = view.vxlans.values()
    (link,) = shown(ns, "ip -d -j link show vx0")
    wanted = link["linkinfo"]["info_data"]
    # iproute2 6.1 does not show these in JSON, or not in the same place.
    for name in ("ttl", "tos", "label"):
        wanted.pop(name, None)
    found = as_ip_shows(vxlan, view)
    extra = {name: found.pop(name) for name in ("ttl", "tos", "label") if name in found}
    remcsum = any(wanted.pop(name, False) for name in ("remcsum_tx", "remcsum_rx"))
    assert found == {name: value for name, value in wanted.items() if value}
    assert vxlan.remcsum == remcsum == ("remcsum" in options)
    words = options.split()
    asked = {name: words[words.index(word) + 1] for name, word in
             (("ttl", "ttl"), ("tos", "tos"), ("label", "flowlabel")) if word in words}  # fmt: skip
    assert vxlan.ttl_inherit == (asked.get("ttl") == "inherit")
    assert {name: str(value) for name, value in extra.items()} == {
        name: value for name, value in asked.items() if (name, value) != ("ttl", "inherit")
    }
    assert (vxlan.name, vxlan.mac.hex(":"), vxlan.mtu, vxlan.up) == ("vx0", link.get("address", ""), link["mtu"], False)
    assert view.tunnels == {}


def test_port_of_a_bridge_and_alias(namespace: Make) -> None:
    ns = namespace()
    shell(ns, f"ip link add br0 type bridge; ip link add vx0 type vxlan {DEFAULT}")
    shell(ns, "ip link set vx0 master br0 up; ip link set vx0 alias 'to the others'")
    view = ns.call(View.read)
    vxlan = view.vxlans[ns.ifindex("vx0")]
    assert (vxlan.master, vxlan.up) == (ns.ifindex("br0"), True)
    assert (view.link("vx0").alias, view.link("br0").alias) == ("to the others", "")


@pytest.mark.parametrize(
    "change",
    [
        "ip link add vx1 type vxlan id 8 dstport 4789",
        "ip link set vx0 type vxlan id 7 nolearning ageing 9",
        "ip link set vx0 mtu 1400; ip link set vx0 name other",
        "ip link del vx0",
        "ip link del vx0; ip link add vx0 index 99 type vxlan id 9 dstport 4789",
        "ip link set vx0 nomaster; ip link set vx0 alias something",
    ],
)
def test_events(namespace: Make, change: str) -> None:
    """Those of a change, applied to the View before it, give the View after it."""
    from pyroute2.netlink.rtnl.marshal import MarshalRtnl

    ns = namespace()
    shell(ns, f"ip link add br0 type bridge; ip link add vx0 type vxlan {DEFAULT}; ip link set vx0 master br0 up")
    with ns.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
        sock.bind((0, 1))  # RTMGRP_LINK
        sock.settimeout(0.3)
        view = before = ns.call(View.read)
        shell(ns, change)
        deadline = time.monotonic() + 20
        while view == before or view != ns.call(View.read):
            assert time.monotonic() < deadline, f"{view}\n{ns.call(View.read)}"
            with contextlib.suppress(TimeoutError):
                while True:
                    view = view.applied(list(MarshalRtnl().parse(sock.recv(65536))))


class TestFdb:
    @pytest.fixture
    def node(self, namespace: Make) -> Namespace:
        ns = namespace(ipv6=True)
        shell(ns, "ip link add u0 type veth peer name u1; ip link add br0 type bridge")
        shell(ns, f"ip link add vx0 type vxlan {DEFAULT} remote 192.0.2.2; ip link set vx0 master br0 up")
        return ns

    def test_same_as_bridge_fdb(self, node: Namespace) -> None:
        shell(
            node,
            "bridge fdb append 00:00:00:00:00:00 dev vx0 dst 192.0.2.3;"
            "bridge fdb append 00:00:00:00:00:00 dev vx0 dst 192.0.2.4 port 8472 vni 9 via u0;"
            "bridge fdb add 02:00:00:00:00:01 dev vx0 dst 192.0.2.5 static;"
            "bridge fdb add 02:00:00:00:00:02 dev vx0 dst 192.0.2.5 dynamic;"
            "bridge fdb add 02:00:00:00:00:03 dev vx0 dst 192.0.2.6 extern_learn;"
            "bridge fdb add 02:00:00:00:00:04 dev vx0 master static; bridge fdb add 02:00:00:00:00:05 dev u0 self",
        )
        found = node.call(read_vxlan_fdb, node.ifindex("vx0"))
        view = node.call(View.read)
        wanted = [entry for entry in shown(node, "bridge -j fdb show dev vx0") if "self" in entry["flags"]]
        assert len(wanted) == 6
        assert sorted(map(repr, (self.shown(entry, view) for entry in found))) == sorted(
            repr(
                (
                    entry["mac"], entry["dst"], entry.get("vni", 0), entry.get("port", 0), entry.get("viaIf", ""),
                    entry["state"], "extern_learn" in entry["flags"],
                )
            )
            for entry in wanted
        )  # fmt: skip
        assert [entry.dst for entry in found if not any(entry.mac)] == ["192.0.2.2", "192.0.2.3", "192.0.2.4"]

    def shown(self, entry: VxlanFdbEntry, view: View) -> tuple[Any, ...]:
        state = "permanent" if entry.permanent else "static" if entry.static else ""
        via = view.name(entry.lower) if entry.lower else ""
        return entry.mac.hex(":"), entry.dst, entry.vni, entry.port, via, state, entry.extern_learn

    def test_ipv6(self, namespace: Make) -> None:
        ns = namespace(ipv6=True)
        shell(ns, f"ip link add vx0 type vxlan {DEFAULT} local 2001:db8::1")
        shell(ns, "bridge fdb add 02:00:00:00:00:01 dev vx0 dst 2001:db8::2")
        (entry,) = ns.call(read_vxlan_fdb, ns.ifindex("vx0"))
        assert (entry.mac.hex(":"), entry.dst) == ("02:00:00:00:00:01", "2001:db8::2")

    def test_segments_of_an_external_device(self, namespace: Make) -> None:
        ns = namespace()
        shell(ns, "ip link add vx0 type vxlan external dstport 4789")
        shell(ns, "bridge fdb add 02:00:00:00:00:01 dev vx0 dst 192.0.2.2 src_vni 100 vni 200")
        shell(ns, "bridge fdb add 02:00:00:00:00:01 dev vx0 dst 192.0.2.3 src_vni 101")
        found = ns.call(read_vxlan_fdb, ns.ifindex("vx0"))
        assert sorted((entry.src_vni, entry.vni, entry.dst) for entry in found) == [
            (100, 200, "192.0.2.2"), (101, 0, "192.0.2.3"),
        ]  # fmt: skip

    def test_nexthop_group(self, namespace: Make) -> None:
        ns = namespace()
        shell(ns, "ip nexthop add id 5 via 192.0.2.2 fdb; ip nexthop add id 10 group 5 fdb")
        shell(ns, f"ip link add vx0 type vxlan {DEFAULT}; bridge fdb add 02:00:00:00:00:01 dev vx0 nhid 10")
        (entry,) = ns.call(read_vxlan_fdb, ns.ifindex("vx0"))
        assert (entry.nhid, entry.dst) == (10, "")

    def test_ages(self, node: Namespace) -> None:
        shell(node, "bridge fdb add 02:00:00:00:00:01 dev vx0 dst 192.0.2.5 dynamic")
        time.sleep(1.1)
        (other,) = (e for e in shown(node, "bridge -s -j fdb show dev vx0") if e["mac"] == "02:00:00:00:00:01")
        entries = node.call(read_vxlan_fdb, node.ifindex("vx0"))
        (entry,) = (one for one in entries if one.mac == bytes.fromhex("020000000001"))
        assert 1 <= entry.updated < 30
        assert other["updated"] <= entry.updated <= other["updated"] + 5

    def test_two_thousand(self, node: Namespace) -> None:
        macs = [f"02:00:00:00:{i >> 8:02x}:{i & 255:02x}" for i in range(2000)]
        lines = "".join(f"fdb add {mac} dev vx0 dst 10.0.{i >> 8}.{i & 255}\n" for i, mac in enumerate(macs))
        node.run(["bridge", "-batch", "-"], stdin=lines)
        found = node.call(read_vxlan_fdb, node.ifindex("vx0"))
        assert {entry.mac.hex(":"): entry.dst for entry in found if any(entry.mac)} == {
            mac: f"10.0.{i >> 8}.{i & 255}" for i, mac in enumerate(macs)
        }

    def test_empty_and_none(self, namespace: Make) -> None:
        ns = namespace()
        shell(ns, f"ip link add vx0 type vxlan {DEFAULT}")
        assert ns.call(read_vxlan_fdb, ns.ifindex("vx0")) == ()
        with pytest.raises(OSError, match="No such device"):
            ns.call(read_vxlan_fdb, 9999)
