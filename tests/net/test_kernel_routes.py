# SPDX-License-Identifier: Apache-2.0
"""Routes, addresses and group memberships, with `ip` as second opinion."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from pydp.errors import PydpError, UsageError
from pydp.kernel import (
    add_address,
    add_routes,
    batch,
    join,
    leave,
    next_hop,
    read_addresses,
    read_routes,
    remove_address,
    remove_routes,
    resolved,
)
from pydp.lab import Namespace
from pydp.model import Group, NextHop, Route

Make = Callable[..., Namespace]
GROUPS = ["239.1.1.1", "ff05::5"]


def shell(ns: Namespace, script: str) -> str:
    return str(ns.run(["sh", "-ec", script]).stdout)


def shown(ns: Namespace, command: str) -> Any:
    return json.loads(shell(ns, command) or "[]")


@pytest.fixture
def node(namespace: Make) -> Namespace:
    """v0 with 192.0.2.1/24 and 2001:db8::1/64 and v1 with 198.51.100.1/24, both with a carrier."""
    ns = namespace(ipv6=True)
    shell(
        ns,
        "for i in 0 1; do ip link add v$i type veth peer name w$i; ip link set v$i up; ip link set w$i up; done;"
        "ip addr add 192.0.2.1/24 dev v0; ip addr add 198.51.100.1/24 dev v1; ip addr add 2001:db8::1/64 dev v0",
    )
    return ns


def ours(ns: Namespace, family: str = "-4") -> list[dict[str, Any]]:
    """Our routes as `ip route` has them, without what is the same in all of them."""
    found = shown(ns, f"ip -j {family} route show proto 219 table all")
    return [{name: one[name] for name in ("dst", "gateway", "dev", "metric") if name in one} for one in found]


def everything(ns: Namespace) -> str:
    return shell(ns, "ip -d route show table all; ip -d -6 route show table all")


class TestNextHop:
    def test_neighbour_gateway_and_own_address(self, node: Namespace) -> None:
        shell(node, "ip route add 203.0.113.0/24 via 192.0.2.9; ip -4 route add default via inet6 2001:db8::9 dev v0")
        v0 = node.ifindex("v0")
        assert node.call(next_hop, "192.0.2.2") == NextHop(v0, "", "192.0.2.1")
        assert node.call(next_hop, "203.0.113.5") == NextHop(v0, "192.0.2.9", "192.0.2.1")
        assert node.call(next_hop, "2001:db8::2") == NextHop(v0, "", "2001:db8::1")
        assert node.call(next_hop, "8.8.8.8") == NextHop(v0, "2001:db8::9", "192.0.2.1")
        assert node.call(next_hop, "192.0.2.1").ifindex == node.ifindex("lo")

    def test_bound_to_a_device(self, node: Namespace) -> None:
        shell(node, "ip route add default via 192.0.2.9; ip route add default via 198.51.100.9 metric 5")
        v1 = node.ifindex("v1")
        assert node.call(next_hop, "8.8.8.8", oif=v1) == NextHop(v1, "198.51.100.9", "198.51.100.1")

    @pytest.mark.parametrize("address", ["203.0.113.5", "2001:db8:9::1"])
    def test_no_route(self, node: Namespace, address: str) -> None:
        with pytest.raises(PydpError, match=f"no route to {address}: Network is unreachable") as caught:
            node.call(next_hop, address)
        assert caught.value.hint == f"ip route get {address}"

    def test_resolved(self, node: Namespace) -> None:
        shell(node, "ip route add 203.0.113.0/24 via 192.0.2.9")
        v0 = node.ifindex("v0")
        wanted = [
            Route("10.1.0.0/16", 0, "192.0.2.2"),
            Route("10.2.0.0/16", 0, "203.0.113.5"),
            Route("fd00::/64", 0, "192.0.2.2"),
            Route("10.3.0.0/16", v0),
        ]
        found = node.call(resolved, wanted)
        assert [(route.dev, route.via) for route in found] == [
            (v0, "192.0.2.2"), (v0, "192.0.2.9"), (v0, ""), (v0, ""),
        ]  # fmt: skip
        node.call(add_routes, found)
        assert set(node.call(read_routes)) == set(found)
        with pytest.raises(PydpError, match=r"no route to 8\.8\.8\.8"):
            node.call(resolved, [Route("10.1.0.0/16", 0, "8.8.8.8")])


class TestRoutes:
    def test_as_ip_route_shows_them(self, node: Namespace) -> None:
        v0, v1 = node.ifindex("v0"), node.ifindex("v1")
        wanted = [
            Route("10.1.0.0/16", v0, "192.0.2.2", src="192.0.2.1", mtu=1480),
            Route("10.2.0.0/16", v1),
            Route("10.3.0.0/16", v0, "203.0.113.9", onlink=True),
            Route("10.4.0.0/16", v0, "2001:db8::2", metric=7),
            Route("10.4.0.0/16", v1, "198.51.100.2", table=1000),
            Route("2001:db8:5::/48", v0, "2001:db8::2", src="2001:db8::1", mtu=1460, metric=1024),
            Route("2001:db8:6::/48", v1, "2001:db8:9::1", onlink=True, metric=8),
            Route("2001:db8:7::/48", v1, metric=1024),
        ]
        node.call(add_routes, wanted)
        assert sorted(node.call(read_routes), key=repr) == sorted(wanted, key=repr)
        assert all(one["protocol"] == "219" for one in shown(node, "ip -j route show root 10.0.0.0/8"))
        first, second, third, fourth = shown(node, "ip -j route show root 10.0.0.0/8 table main")
        assert (first["gateway"], first["prefsrc"], first["metrics"]) == ("192.0.2.2", "192.0.2.1", [{"mtu": 1480}])
        assert (second["dev"], second["scope"], "gateway" in second) == ("v1", "link", False)
        assert (third["gateway"], third["flags"]) == ("203.0.113.9", ["onlink"])
        assert (fourth["via"], fourth["metric"]) == ({"family": "inet6", "host": "2001:db8::2"}, 7)
        (other,) = shown(node, "ip -j route show table 1000")
        assert other["gateway"] == "198.51.100.2"
        six, *_ = shown(node, "ip -j -6 route show proto 219")
        assert (six["dst"], six["gateway"], six["metrics"]) == ("2001:db8:5::/48", "2001:db8::2", [{"mtu": 1460}])
        node.call(remove_routes, wanted)
        assert node.call(read_routes) == ()

    @pytest.mark.parametrize("family", ["-4", "-6"])
    def test_again_is_no_change(self, node: Namespace, family: str) -> None:
        wanted = self.two(node, family)
        node.call(add_routes, wanted)
        before = everything(node)
        with node.call(socket.socket, socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as events:
            events.bind((0, 0x40 | 0x400))  # RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_ROUTE
            node.call(add_routes, wanted)
            with pytest.raises(BlockingIOError):
                events.recv(4096, socket.MSG_DONTWAIT)
        assert everything(node) == before

    @pytest.mark.parametrize("family", ["-4", "-6"])
    def test_ours_is_replaced(self, node: Namespace, family: str) -> None:
        """By another gateway, and by none."""
        first, second = self.two(node, family)
        node.call(add_routes, [first, second])
        gateway = "192.0.2.7" if family == "-4" else "2001:db8::7"
        for changed in (replace(first, via=gateway), replace(first, via="", mtu=1400), first):
            node.call(add_routes, [changed])
            assert {route.prefix: route for route in node.call(read_routes)} == {
                changed.prefix: changed, second.prefix: second,
            }  # fmt: skip
            assert len(ours(node, family)) == 2

    @pytest.mark.parametrize("family", ["-4", "-6"])
    def test_that_of_another_is_refused_and_nothing_changes(self, node: Namespace, family: str) -> None:
        first, second = self.two(node, family)
        node.call(add_routes, [first])
        shell(node, f"ip {family} route add {second.prefix} dev v1 metric {second.metric}")
        before = everything(node)
        gateway = "192.0.2.7" if family == "-4" else "2001:db8::7"
        third = replace(first, prefix="10.9.0.0/16" if family == "-4" else "2001:db8:9::/48")
        with pytest.raises(PydpError, match=rf"route to {second.prefix} already .*\(protocol boot\)") as caught:
            node.call(add_routes, [third, replace(first, via=gateway), second, replace(third, metric=99)])
        assert second.prefix in caught.value.hint
        assert everything(node) == before
        # With another metric there is room beside it.
        node.call(add_routes, [replace(second, metric=second.metric + 5)])
        node.call(remove_routes, [second])
        assert len(shown(node, f"ip -j {family} route show {second.prefix}")) == 2

    def test_connected_prefix_is_refused(self, node: Namespace) -> None:
        with pytest.raises(PydpError, match=r"route to 192.0.2.0/24 already .*\(protocol kernel\)"):
            node.call(add_routes, [Route("192.0.2.0/24", node.ifindex("v1"))])

    def test_blackhole_is_refused(self, node: Namespace) -> None:
        shell(node, "ip route add blackhole 10.1.0.0/16")
        with pytest.raises(PydpError, match=r"route to 10\.1\.0\.0/16 already that pydp did not make$"):
            node.call(add_routes, [Route("10.1.0.0/16", node.ifindex("v1"))])

    def test_the_kernel_s_reason(self, node: Namespace) -> None:
        v0 = node.ifindex("v0")
        good = [Route(f"10.{i}.0.0/16", v0, "192.0.2.2") for i in range(200)]
        with pytest.raises(PydpError, match=r"cannot set the route to 10.200.0.0/16: .* \(Nexthop has invalid gateway"):
            node.call(add_routes, [*good, Route("10.200.0.0/16", v0, "203.0.113.9"), *good[:50]])
        with pytest.raises(PydpError, match=r"10.1.0.0/16: No such device"):
            node.call(add_routes, [Route("10.1.0.0/16", 9999)])
        assert node.call(read_routes) == ()

    def test_interrupt(self, node: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whatever comes after the kernel has done a part of it."""
        kept = Route("10.250.0.0/16", node.ifindex("v0"))
        node.call(add_routes, [kept])
        wanted = [Route(f"10.{i}.0.0/16", kept.dev) for i in range(200)]
        answers, seen = batch._answers, []

        def interrupted(datagram: bytes) -> Any:
            seen.append(len(node.call(read_routes)))
            if seen[-1] > 100:
                monkeypatch.setattr(batch, "_answers", answers)
                raise KeyboardInterrupt
            return answers(datagram)

        monkeypatch.setattr(batch, "_answers", interrupted)
        with pytest.raises(KeyboardInterrupt):
            node.call(add_routes, [*wanted, replace(kept, mtu=1400)])
        assert seen[-1] > 100
        assert node.call(read_routes) == (kept,)

    def test_removal_is_exact(self, node: Namespace) -> None:
        v0, v1 = node.ifindex("v0"), node.ifindex("v1")
        there = [
            Route("10.1.0.0/16", v0, "192.0.2.2", mtu=1480),
            Route("10.1.0.0/16", v0, "192.0.2.2", metric=5, mtu=1480),
        ]
        node.call(add_routes, there)
        node.call(remove_routes, [replace(there[0], dev=v1, via="198.51.100.2"), Route("10.9.0.0/16", v0)])
        node.call(remove_routes, [replace(there[0], mtu=0), replace(there[1], via="")])
        assert set(node.call(read_routes)) == set(there)
        node.call(remove_routes, [there[0]])
        assert node.call(read_routes) == (there[1],)
        node.call(remove_routes, there)
        assert node.call(read_routes) == ()

    def test_ten_thousand_of_each_family(self, node: Namespace) -> None:
        v0 = node.ifindex("v0")
        wanted = [Route(f"10.{i >> 8}.{i & 255}.0/24", v0, "192.0.2.2") for i in range(10000)]
        wanted += [Route(f"2001:db8:{i + 1:x}::/64", v0, "2001:db8::2", metric=1024) for i in range(10000)]
        node.call(add_routes, wanted)
        assert set(node.call(read_routes)) == set(wanted)
        assert len(shell(node, "ip route show proto 219").splitlines()) == 10000
        assert len(shell(node, "ip -6 route show proto 219").splitlines()) == 10000
        # The last is another's: all go again.
        shell(node, "ip route add 10.255.0.0/16 dev v1")
        node.call(remove_routes, wanted)
        assert node.call(read_routes) == ()
        with pytest.raises(PydpError, match="protocol boot"):
            node.call(add_routes, [*wanted, Route("10.255.0.0/16", v0)])
        assert node.call(read_routes) == ()

    def two(self, node: Namespace, family: str) -> tuple[Route, Route]:
        v0 = node.ifindex("v0")
        if family == "-4":
            return Route("10.1.0.0/16", v0, "192.0.2.2", mtu=1480), Route("10.2.0.0/16", v0, "192.0.2.3")
        return (
            Route("2001:db8:1::/48", v0, "2001:db8::2", mtu=1480, metric=1024),
            Route("2001:db8:2::/48", v0, "2001:db8::3", metric=1024),
        )


class TestAddresses:
    def test_same_as_ip_addr(self, node: Namespace) -> None:
        shell(
            node,
            "ip addr add 192.0.2.77/24 dev v0; ip addr add 10.0.0.1 peer 10.0.0.2/30 dev v1;"
            "ip addr add 2001:db8:1::1 peer 2001:db8:1::2/127 dev v1; ip addr add 203.0.113.1/32 dev lo",
        )
        found = {ifindex: {str(one.ip) for one in some} for ifindex, some in node.call(read_addresses).items()}
        wanted = {
            link["ifindex"]: {info["local"] for info in link["addr_info"]}
            for link in shown(node, "ip -j addr")
            if link["addr_info"]
        }
        assert found == wanted
        v0 = node.call(read_addresses)[node.ifindex("v0")]
        assert [str(one) for one in v0 if one.version == 4] == ["192.0.2.1/24", "192.0.2.77/24"]

    def test_add_and_remove(self, node: Namespace) -> None:
        v1 = node.ifindex("v1")
        for address in ("203.0.113.1/28", "2001:db8:7::1/64"):
            assert node.call(add_address, v1, address)
            assert not node.call(add_address, v1, address)
            assert address in {str(one) for one in node.call(read_addresses)[v1]}
            assert node.call(remove_address, v1, address)
            assert not node.call(remove_address, v1, address)
            assert address not in {str(one) for one in node.call(read_addresses)[v1]}

    def test_refused(self, node: Namespace) -> None:
        with pytest.raises(PydpError, match=r"cannot add address 192\.0\.2\.9/24 to interface 9999: No such device"):
            node.call(add_address, 9999, "192.0.2.9/24")
        with pytest.raises(UsageError, match="'v0' is not an address"):
            node.call(add_address, 1, "v0")
        assert not node.call(remove_address, 9999, "192.0.2.9/24")

    @pytest.mark.parametrize("address", GROUPS)
    def test_group(self, node: Namespace, address: str) -> None:
        """The device is a member; what the host sends to the group goes out there and not to the host itself, from an
        address that is none of the group's.
        """
        group = Group(node.ifindex("v0"), address)
        before = everything(node)
        node.call(join, group)
        node.call(join, group)
        assert address in shell(node, "ip maddr show dev v0")
        hop = node.call(next_hop, address, oif=group.dev)
        assert hop == NextHop(group.dev, "", "2001:db8::1" if ":" in address else "192.0.2.1")
        assert next_source(node) == "192.0.2.1"
        assert everything(node) == before
        node.call(leave, group)
        node.call(leave, group)
        assert address not in shell(node, "ip maddr show dev v0")
        assert everything(node) == before

    @pytest.mark.parametrize("address", GROUPS)
    def test_group_when_the_route_cannot_be_removed(
        self, node: Namespace, address: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one = batch.Requests.one

        def refuse(self: batch.Requests, command: batch.Command) -> batch.Answer:
            return batch.Answer(1) if command.kind == 25 else one(self, command)

        monkeypatch.setattr(batch.Requests, "one", refuse)
        with pytest.raises(PydpError, match="cannot remove the local route"):
            node.call(join, Group(node.ifindex("v0"), address))
        assert address not in shell(node, "ip maddr show dev v0; ip addr show dev v0")


def next_source(ns: Namespace) -> str:
    """The source address of a packet that leaves by v0."""
    return ns.call(next_hop, "192.0.2.200").src
