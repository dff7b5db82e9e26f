# SPDX-License-Identifier: Apache-2.0
"""Mode ipvlan with real stacks: port p0 is the parent, container 0 is outside, the others are children."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from pydp.datapath import Instance
from pydp.errors import UsageError
from pydp.lab import Capture, Container, Segment, get_offload, ping, tcp_transfer, udp_sizes
from tests.net.bridging import OFFLOADS, SegmentFactory, attach, attached, count, mac, port_mac, verdicts
from tests.net.sharing import HOST, HOST6, give_addresses

pytestmark = pytest.mark.usefixtures("requires_root", "bpffs")

FLAGS = ("bridge", "private", "vepa")
PARENT_MAC = port_mac(0)


def child(segment: Segment, number: int) -> str:
    """What --child says of a container."""
    one = segment[number]
    return f"p{number}={one.address4},{one.address6}"


@dataclass(frozen=True, slots=True)
class Host:
    """A host with the parent p0, and how it is attached."""

    segment: Segment
    hook: str

    @contextlib.contextmanager
    def attached(self, kind: str, flag: str = "bridge") -> Iterator[Instance]:
        children = tuple(child(self.segment, number) for number in range(1, self.segment.n))
        for one in self.segment.containers:  # what could not be reached by another type
            one.ns.run(["ip", "neighbour", "flush", "dev", "eth0"])
        options = {"type": kind, "flag": flag, "child": children}
        with attached(self.segment.sw, "p0", mode="ipvlan", hook=self.hook, options=options) as instance:
            yield instance
            assert not [name for _, name in verdicts(self.segment.sw) if name in ("drop_error", "punt_error")]

    @contextlib.contextmanager
    def routed_to(self) -> Iterator[None]:
        """The outside with routes to the children by the host, as type l3 needs them."""
        outside, *children = self.segment.containers
        routes = [[one.address4, "via", HOST] for one in children] + [
            [str(one.address6), "via", HOST6] for one in children
        ]
        for words in routes:
            outside.ns.run(["ip", "route", "add", *words])
        try:
            yield
        finally:
            for words in routes:
                outside.ns.run(["ip", "route", "del", *words])

    @contextlib.contextmanager
    def forwarding(self) -> Iterator[None]:
        keys = ("ipv4.conf.all.forwarding", "ipv6.conf.all.forwarding")
        for key in keys:
            self.segment.sw.sysctl(key, 1)
        try:
            yield
        finally:
            for key in keys:
                self.segment.sw.sysctl(key, 0)


@pytest.fixture(scope="module", params=["tc", "xdp"])
def host(request: pytest.FixtureRequest, module_segment: SegmentFactory, bpffs: object) -> Host:
    made = module_segment(4, ipv6=True, offloads=OFFLOADS[request.param])
    give_addresses(made.sw, "p0")
    return Host(made, request.param)


def neighbours(one: Container) -> dict[str, str]:
    """MAC addresses by IP address, as a container has learned them."""
    rows: list[dict[str, Any]] = json.loads(one.ns.run(["ip", "-j", "neighbour", "show", "dev", "eth0"]).stdout)
    return {row["dst"]: row["lladdr"] for row in rows if "lladdr" in row}


def talk(host: Host, outside: Container, one: Container, other: Container) -> None:
    """To the world and back by either IP version, with nothing lost; and the host's own traffic goes on."""
    for address in (one.address4, other.address6, HOST, HOST6):
        assert ping(outside.ns, address, count=5, interval=0.01).lost == 0, address
    assert ping(one.ns, outside.address6).lost == 0
    assert ping(one.ns, outside.address4).lost == 0
    tcp_transfer(one.ns, outside.ns, one.address4, 3_000_000)
    tcp_transfer(outside.ns, one.ns, outside.address6, 3_000_000)
    tcp_transfer(outside.ns, host.segment.sw, outside.address4, 1_000_000)
    sizes = [0, 1472, 1473, 65507]
    assert udp_sizes(outside.ns, one.ns, outside.address4, sizes) == dict.fromkeys(sizes, True)


@pytest.mark.parametrize("flag", FLAGS)
def test_l2(host: Host, flag: str) -> None:
    """Among each other with flag bridge only, as nobody sends frames back here; and never to the host. Outside all
    have the parent's MAC address, and inside as well.
    """
    outside, one, other, _ = host.segment.containers
    with host.attached("l2", flag), Capture(outside.ns, "eth0") as capture:
        talk(host, outside, one, other)
        reached = ping(one.ns, other.address4, count=2, interval=0.01, wait=0.3)
        assert reached.lost == (0 if flag == "bridge" else 2)
        assert ping(one.ns, HOST, count=1, wait=0.3).lost == 1
        if flag == "bridge":
            tcp_transfer(one.ns, other.ns, one.address6, 3_000_000)
            assert neighbours(one)[other.address4] == PARENT_MAC.hex(":")
        assert neighbours(one)[outside.address4] == mac(0).hex(":")
        seen = neighbours(outside)
        assert {seen[str(address)] for address in (one.address4, other.address6, HOST)} == {PARENT_MAC.hex(":")}
        sources = {frame[6:12] for frame in capture.frames(20_000, timeout=0.3)}
        assert sources <= {PARENT_MAC, mac(0)}
        assert count(host.segment.sw, "forward_port", hook=host.hook) > 100


def test_an_address_that_a_child_has_is_seen_to_be_taken(host: Host) -> None:
    """Duplicate address detection (RFC 4862 5.4) works in both directions."""
    outside, one, _, _ = host.segment.containers
    with host.attached("l2"):
        for asker, address in ((outside, one.address6), (one, outside.address6)):
            asker.ns.sysctl("ipv6.conf.eth0.accept_dad", 1)
            asker.ns.run(["ip", "address", "add", f"{address}/128", "dev", "eth0"])
            try:
                assert until_dad_fails(asker, str(address))
            finally:
                asker.ns.run(["ip", "address", "del", f"{address}/128", "dev", "eth0"])


def until_dad_fails(one: Container, address: str) -> bool:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        shown = one.ns.run(["ip", "address", "show", "dev", "eth0", "dadfailed"]).stdout
        if address in shown:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("forwarding", [False, True], ids=["host", "router"])
def test_l3(host: Host, forwarding: bool) -> None:
    """The host's routes count, whether it forwards or not; with XDP only where it does does the kernel tell them. What
    is sent has the TTL that the container gave it.
    """
    outside, one, other, _ = host.segment.containers
    with contextlib.ExitStack() as stack:
        if forwarding:
            stack.enter_context(host.forwarding())
        stack.enter_context(host.routed_to())
        stack.enter_context(host.attached("l3"))
        talk(host, outside, one, other)
        assert ping(one.ns, other.address4, count=2, interval=0.01).lost == 0
        tcp_transfer(one.ns, other.ns, one.address6, 3_000_000)
        assert ping(one.ns, HOST, count=1, wait=0.3).lost == 1
        assert set(neighbours(one).values()) == {PARENT_MAC.hex(":")}
        by_xdp = count(host.segment.sw, "forward_port", port="p1", hook="xdp")
        assert (by_xdp > 100) == (host.hook == "xdp" and forwarding)
        with Capture(outside.ns, "eth0") as capture:
            ping(one.ns, outside.address4, count=1)
            ttls = {frame[22] for frame in capture.frames(10, timeout=0.3) if is_request(frame)}
        assert ttls == {64}


def is_request(frame: bytes) -> bool:
    return frame[12:14] == b"\x08\x00" and frame[23] == 1 and frame[34] == 8


@pytest.mark.parametrize("flag", ["private", "vepa"])
def test_l3_keeps_children_apart(host: Host, flag: str) -> None:
    outside, one, other, _ = host.segment.containers
    with host.routed_to(), host.attached("l3", flag):
        assert ping(outside.ns, one.address4, count=3, interval=0.01).lost == 0
        assert ping(one.ns, other.address4, count=2, interval=0.01, wait=0.3).lost == 2


def test_l3_follows_the_hosts_routes(host: Host) -> None:
    """To a network behind the outside. Without a route it would be on the link, as with the kernel's device."""
    outside, one, _, _ = host.segment.containers
    outside.ns.sysctl("ipv4.conf.eth0.arp_ignore", 1)
    outside.ns.run(["ip", "address", "add", "192.0.2.1/32", "dev", "lo"])
    one.ns.run(["ip", "route", "add", "default", "dev", "eth0"])
    with contextlib.ExitStack() as stack:
        stack.callback(outside.ns.sysctl, "ipv4.conf.eth0.arp_ignore", 0)
        stack.callback(one.ns.run, ["ip", "route", "del", "default", "dev", "eth0"])
        stack.callback(outside.ns.run, ["ip", "address", "del", "192.0.2.1/32", "dev", "lo"])
        stack.enter_context(host.routed_to())
        stack.enter_context(host.attached("l3"))
        assert ping(one.ns, "192.0.2.1", count=1, wait=0.3).lost == 1
        host.segment.sw.run(["ip", "route", "add", "192.0.2.1/32", "via", outside.address4])
        stack.callback(host.segment.sw.run, ["ip", "route", "del", "192.0.2.1/32"])
        assert ping(one.ns, "192.0.2.1", count=3, interval=0.01).lost == 0


def test_l3s_passes_the_hosts_netfilter(host: Host) -> None:
    outside, one, other, _ = host.segment.containers
    sw = host.segment.sw
    with host.forwarding(), host.routed_to(), host.attached("l3s"):
        talk(host, outside, one, other)
        assert ping(one.ns, other.address4, count=2, interval=0.01).lost == 0
        assert count(sw, "punt_route") > 100
        for source, dest in ((outside.address4, one.address4), (one.address4, outside.address4)):
            rule = ["FORWARD", "-s", source, "-d", dest, "-j", "DROP"]
            sw.run(["iptables", "-w", "-A", *rule])
            try:
                assert ping(outside.ns, one.address4, count=1, wait=0.3).lost == 1
            finally:
                sw.run(["iptables", "-w", "-D", *rule])
        assert ping(outside.ns, one.address4).lost == 0
    shown = sw.run(["ip", "route", "show", str(one.address4)]).stdout
    assert not shown, "the routes go with the instance"


def test_gso_frames_pass_whole_on_tc(segment: SegmentFactory) -> None:
    made = segment(2, ipv6=True)
    outside, one = made.containers
    options = {"type": "l2", "child": (child(made, 1),)}
    with attached(made.sw, "p0", mode="ipvlan", options=options), Capture(one.ns, "eth0") as capture:
        assert get_offload(outside.ns, "eth0", "tso")
        tcp_transfer(one.ns, outside.ns, one.address4, 3_000_000)
        assert max(len(frame) for frame in capture.frames(5000, timeout=0.3)) > 20_000


def test_another_attach_follows_addresses(segment: SegmentFactory) -> None:
    made = segment(2, ipv6=True)
    outside, one = made.containers
    one.ns.run(["ip", "address", "add", "10.0.7.7/16", "dev", "eth0"])
    with attached(made.sw, "p0", mode="ipvlan", options={"type": "l2", "child": (child(made, 1),)}):
        assert ping(outside.ns, one.address4).lost == 0
        assert ping(outside.ns, "10.0.7.7", count=1, wait=0.3).received == 0
        options = {"type": "l2", "child": (child(made, 1) + ",10.0.7.7",)}
        assert attach(made.sw, "p0", mode="ipvlan", options=options).revision > 0
        assert ping(outside.ns, "10.0.7.7").lost == 0


def test_an_address_of_the_host_is_refused(segment: SegmentFactory) -> None:
    made = segment(2)
    made.sw.run(["ip", "address", "add", f"{HOST}/16", "dev", "p0"])
    with pytest.raises(UsageError, match=f"{HOST} is an address of this host"):
        attach(made.sw, "p0", mode="ipvlan", options={"child": (f"p1={HOST}",)})
