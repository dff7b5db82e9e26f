# SPDX-License-Identifier: Apache-2.0
"""Mode macvlan with real stacks: port p0 is the parent, container 0 is outside, the others are children."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from dataclasses import dataclass

import pytest

from pydp.datapath import Datapath, Instance
from pydp.errors import UsageError
from pydp.lab import Capture, Segment, get_offload, ping, tcp_transfer, udp_sizes
from tests.net.bridging import OFFLOADS, SegmentFactory, attach, attached, count, detach, mac, verdicts
from tests.net.sharing import HOST, HOST6, give_addresses

pytestmark = pytest.mark.usefixtures("requires_root", "bpffs")

TYPES = ("private", "vepa", "bridge")


@dataclass(frozen=True, slots=True)
class Host:
    """A host with the parent p0, and how it is attached."""

    segment: Segment
    hook: str

    def attached(self, kind: str) -> AbstractContextManager[Instance]:
        options = {"type": kind, "child": self.segment.ports[1:]}
        return attached(self.segment.sw, "p0", mode="macvlan", hook=self.hook, options=options)


@pytest.fixture(scope="module", params=["tc", "xdp"])
def host(request: pytest.FixtureRequest, module_segment: SegmentFactory, bpffs: object) -> Host:
    made = module_segment(4, ipv6=True, offloads=OFFLOADS[request.param])
    give_addresses(made.sw, "p0")
    return Host(made, request.param)


@pytest.mark.parametrize("kind", TYPES)
def test_stacks_talk_as_behind_macvlan_devices(host: Host, kind: str) -> None:
    """To the world and back by either IP version; among each other with type bridge only, as nobody sends frames back
    here; and never to the host, whose own traffic goes on."""
    outside, one, other, _ = host.segment.containers
    for container in host.segment.containers:  # what could not be reached by another type
        container.ns.run(["ip", "neighbour", "flush", "dev", "eth0"])
    with host.attached(kind):
        for address in (one.address4, other.address6, HOST, HOST6):
            assert ping(outside.ns, address, count=5, interval=0.01).lost == 0, address
        assert ping(one.ns, outside.address6).lost == 0
        tcp_transfer(one.ns, outside.ns, one.address4, 3_000_000)
        tcp_transfer(outside.ns, one.ns, outside.address6, 3_000_000)
        tcp_transfer(outside.ns, host.segment.sw, outside.address4, 1_000_000)
        sizes = [0, 1472, 1473, 65507]
        assert udp_sizes(outside.ns, one.ns, outside.address4, sizes) == dict.fromkeys(sizes, True)
        reached = ping(one.ns, other.address4, count=2, interval=0.01, wait=0.3)
        assert reached.lost == (0 if kind == "bridge" else 2)
        assert ping(one.ns, HOST, count=1, wait=0.3).lost == 1
        if kind == "bridge":
            tcp_transfer(one.ns, other.ns, one.address6, 3_000_000)
        assert count(host.segment.sw, "forward_port", hook=host.hook) > 100
        assert not [name for _, name in verdicts(host.segment.sw) if name.startswith("drop")]


def test_passthru_is_the_parent_in_another_place(segment: SegmentFactory) -> None:
    """The one child gets everything, with an address of its own or that of the parent."""
    made = segment(2)
    outside, child = made.containers
    with attached(made.sw, "p0", mode="macvlan", options={"type": "passthru", "child": ("p1",)}):
        assert ping(outside.ns, child.address4, count=3, interval=0.01).lost == 0
        child.ns.run(["ip", "link", "set", "eth0", "address", "02:00:00:00:77:01"])
        outside.ns.run(["ip", "neighbour", "flush", "dev", "eth0"])
        assert ping(outside.ns, child.address4, count=3, interval=0.01).lost == 0
        tcp_transfer(outside.ns, child.ns, outside.address4, 1_000_000)


def test_gso_frames_pass_whole_on_tc(segment: SegmentFactory) -> None:
    made = segment(2)
    outside, child = made.containers
    options = {"child": ("p1",)}
    with attached(made.sw, "p0", mode="macvlan", options=options), Capture(child.ns, "eth0") as capture:
        assert get_offload(outside.ns, "eth0", "tso")
        tcp_transfer(child.ns, outside.ns, child.address4, 3_000_000)
        assert max(len(one) for one in capture.frames(5000, timeout=0.3)) > 20_000


def test_the_address_of_a_container_is_that_of_the_attach(segment: SegmentFactory) -> None:
    """As a property of the kernel's device would be. Another attach follows a change."""
    made = segment(2)
    outside, child = made.containers
    moved = "02:00:00:00:77:01"
    with attached(made.sw, "p0", mode="macvlan", options={"child": ("p1",)}):
        assert ping(outside.ns, child.address4).lost == 0
        child.ns.run(["ip", "link", "set", "eth0", "address", moved])
        outside.ns.run(["ip", "neighbour", "flush", "dev", "eth0"])
        assert ping(outside.ns, child.address4, wait=0.3).received == 0
        outside.ns.run(["ip", "neighbour", "flush", "dev", "eth0"])
        for options in ({"child": ("p1",)}, {"child": (f"p1={moved}",)}):
            assert attach(made.sw, "p0", mode="macvlan", options=options).revision > 0
            assert ping(outside.ns, child.address4).lost == 0


def test_two_children_have_two_addresses(segment: SegmentFactory) -> None:
    made = segment(3)
    made[2].ns.run(["ip", "link", "set", "eth0", "address", mac(1).hex(":")])
    with pytest.raises(UsageError, match="another child has its address"):
        attach(made.sw, "p0", mode="macvlan", options={"child": ("p1", "p2")})
    assert not made.sw.call(lambda: Datapath().read().attachments)


def test_a_parent_that_filters_addresses_is_made_promiscuous(segment: SegmentFactory) -> None:
    """A kernel bridge as parent hands up what is for its own address only, unless it is promiscuous."""
    made = segment(2, kernel_bridge=True)
    made.sw.run(["ip", "link", "set", "p1", "nomaster"])
    outside, child = made.containers

    def promiscuous() -> bool:
        return "PROMISC" in json.loads(made.sw.run(["ip", "-j", "link", "show", "br0"]).stdout)[0]["flags"]

    attach(made.sw, "br0", mode="macvlan", options={"child": ("p1",)})
    try:
        assert promiscuous()
        assert ping(outside.ns, child.address4, count=3, interval=0.01).lost == 0
        tcp_transfer(child.ns, outside.ns, child.address4, 1_000_000)
    finally:
        detach(made.sw)
    assert not promiscuous()
