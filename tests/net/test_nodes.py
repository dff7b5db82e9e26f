# SPDX-License-Identifier: Apache-2.0
"""Nodes on an underlay, with the kernel's own VXLAN between them: what tunnels of pydp are compared with."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN

from pydp.lab import Capture, LabError, Node, Nodes, get_offload, ping, send_frame, tcp_transfer, udp_sizes

pytestmark = pytest.mark.usefixtures("requires_root")

NodesFactory = Callable[..., Nodes]
BROADCAST = b"\xff" * 6
# Around what a container (MTU 1450) and the underlay (MTU 1500) take in one piece, and of several.
SIZES = [0, 1, *range(1360, 1500), 2000, 4000, *range(8980, 9001)]


def vxlan_everywhere(made: Nodes, **options: str | int | bool) -> None:
    for node in made.nodes:
        made.kernel_vxlan(node, **options)


def pairs(made: Nodes) -> Sequence[tuple[Node, Node]]:
    return [(one, other) for one in made.nodes for other in made.nodes if one is not other]


@pytest.fixture(scope="module")
def two(module_nodes: NodesFactory) -> Nodes:
    made = module_nodes(2, 2, direct=True, ipv6=True)
    vxlan_everywhere(made)
    return made


@pytest.fixture(scope="module")
def far(module_nodes: NodesFactory) -> Nodes:
    """Two nodes, and between them a link that does not take the VXLAN frame of a container's full packet."""
    made = module_nodes(2, router_mtu=1400)
    vxlan_everywhere(made, df="inherit")
    return made


# The kernel's VXLAN


@pytest.mark.parametrize("family", ["address4", "address6"])
def test_all_containers_are_in_one_subnet(two: Nodes, family: str) -> None:
    first, *others = two.containers
    assert len(others) == 3
    for other in others:
        assert ping(first.ns, getattr(other, family), count=2).lost == 0


def test_tcp(two: Nodes) -> None:
    near, far_one = two[0].containers[0], two[1].containers[1]
    assert tcp_transfer(far_one.ns, near.ns, far_one.address4, 2_000_001).bytes == 2_000_001
    assert tcp_transfer(near.ns, far_one.ns, near.address6, 200_001).bytes == 200_001


@pytest.mark.parametrize("may_fragment", [False, True])
def test_udp_of_many_sizes(two: Nodes, may_fragment: bool) -> None:
    near, other = two[0].containers[0], two[1].containers[0]
    found = udp_sizes(other.ns, near.ns, other.address4, SIZES, may_fragment=may_fragment)
    assert found == dict.fromkeys(SIZES, True)


def test_frames_are_encapsulated_on_the_underlay(two: Nodes) -> None:
    near, other = two.nodes
    ping(near.containers[0].ns, other.containers[0].address4, count=1)
    with Capture(other.ns, other.dev, peer=(near.ns, near.dev)) as wire:
        ping(near.containers[0].ns, other.containers[0].address4, count=1, size=100)
        # Beside it there may be questions for neighbours of which the tests before have made use.
        (frame,) = (frame for frame in wire.drain() if ICMP in Ether(frame))
    outer = Ether(frame)
    assert (outer.src, outer.dst) == (near.mac, other.mac)
    assert (outer[IP].src, outer[IP].dst) == (near.address4, other.address4)
    assert (outer[UDP].dport, outer[VXLAN].vni) == (4789, 100)
    inner = outer[VXLAN].payload
    assert (inner.src, inner.dst) == (near.containers[0].mac, other.containers[0].mac)
    assert len(frame) == 14 + 20 + 8 + 100 + 50


def test_broadcast_reaches_all_nodes_and_a_device_goes_again(nodes: NodesFactory) -> None:
    made = nodes(3)
    vxlan_everywhere(made)
    sender, *receivers = made.containers
    frame = BROADCAST + bytes.fromhex(sender.mac.replace(":", "")) + b"\x88\xb5" + bytes(46)

    def arrived(count: int) -> list[list[bytes]]:
        with contextlib.ExitStack() as stack:
            captures = [stack.enter_context(Capture(one.ns, one.dev)) for one in receivers]
            send_frame(sender.ns, sender.dev, frame)
            return [capture.frames(count, timeout=0.5 if count else 0.1) for capture in captures]

    assert arrived(1) == [[frame], [frame]]
    made.kernel_down(made[0])
    assert arrived(0) == [[], []]
    assert {link.get("ifname") for link in made[0].ns.ipr().link("dump")} == {"lo", "eth0", "p0"}
    made.kernel_vxlan(made[0], remotes=[made[2].address4])
    assert arrived(1) == [[], [frame]]


def test_vxlan_options(nodes: NodesFactory) -> None:
    made = nodes(2, 2, direct=True, underlay6=True)
    one, other = made.nodes
    made.kernel_vxlan(one, 7, ports=["p0"], port=8472, learning=False, ttl=9, tos="inherit", srcport="2000 3000")
    made.kernel_vxlan(one, 8, ports=["p1"], local=one.address6)
    shown = one.ns.run(["ip", "-d", "link", "show", "vx7"]).stdout
    for wanted in ("id 7 ", "local 192.0.2.1", "dev eth0", "2000 3000", "dstport 8472", "nolearning", "ttl 9"):
        assert wanted in shown
    assert f"dst {other.address6}" in one.ns.run(["bridge", "fdb", "show", "dev", "vx8"]).stdout
    assert "p1" in one.ns.run(["ip", "-o", "link", "show", "master", "br8"]).stdout
    with pytest.raises(LabError, match="7 already"):
        made.kernel_vxlan(one, 7)
    assert one.ns.ifindex("vx7")
    with pytest.raises(LabError, match="nonsense"):
        made.kernel_vxlan(one, 9, nonsense=True)
    with pytest.raises(OSError, match="no interface"):
        one.ns.ifindex("br9")
    made.kernel_down(one, 7)
    assert one.ns.ifindex("vx8")


def test_an_ipv6_underlay(nodes: NodesFactory) -> None:
    made = nodes(2, underlay6=True, container_mtu=1430)
    for node in made.nodes:
        made.kernel_vxlan(node, local=node.address6)
    near, other = made.containers
    assert ping(near.ns, other.address4, size=1402, extra=["-M", "do"]).lost == 0


def test_a_multicast_group(nodes: NodesFactory) -> None:
    made = nodes(3)
    vxlan_everywhere(made, group="239.1.1.1")
    first, *others = made.containers
    assert "dst 239.1.1.1" in made[0].ns.run(["bridge", "fdb", "show", "dev", "vx100"]).stdout
    for other in others:
        assert ping(first.ns, other.address4, count=1).lost == 0


# Underlays


@pytest.mark.parametrize("options", [{}, {"direct": True}, {"router_mtu": 1400}], ids=["switch", "direct", "router"])
def test_nodes_reach_each_other(nodes: NodesFactory, options: dict[str, int]) -> None:
    made = nodes(2 if "direct" in options else 3, underlay6=True, **options)
    assert len(made.nodes) == made.n
    for one, other in pairs(made):
        assert ping(one.ns, other.address4, count=2).lost == 0
        assert ping(one.ns, other.address6, count=2).lost == 0
        assert one.ns.ifindex(one.dev) == one.index


@pytest.mark.parametrize("sender", [0, 1])
def test_the_narrow_link_is_discovered(far: Nodes, sender: int) -> None:
    one, other = far[sender], far[1 - sender]
    assert ping(one.ns, other.address4, count=1, size=1372, extra=["-M", "do"]).lost == 0
    assert ping(one.ns, other.address4, count=1, size=1373, wait=0.2, extra=["-M", "do"]).lost == 1
    assert "mtu 1400" in one.ns.run(["ip", "route", "get", other.address4]).stdout


def test_tcp_over_the_narrow_link(far: Nodes) -> None:
    """Both ends think of 1450 bytes: the node tells the sender better."""
    near, other = far.containers
    assert tcp_transfer(other.ns, near.ns, other.address4, 500_000, timeout=10).bytes == 500_000


def test_udp_of_sizes_around_the_narrow_link(far: Nodes) -> None:
    near, other = far.containers
    sizes = [1, 1000, *range(1318, 1325), 1422, 1423, 3000]
    for may_fragment in (True, False):
        found = udp_sizes(other.ns, near.ns, other.address4, sizes, may_fragment=may_fragment)
        assert found == dict.fromkeys(sizes, True)


def test_udp_sizes_tells_what_is_lost(nodes: NodesFactory) -> None:
    """A VXLAN device smaller than the ports behind it drops, and tells nobody, what exceeds its MTU."""
    made = nodes(2, direct=True, underlay_mtu=1400)
    vxlan_everywhere(made)
    near, other = made.containers
    found = udp_sizes(other.ns, near.ns, other.address4, [1, 1322, 1422], timeout=0.1, may_fragment=True)
    assert found == {1: True, 1322: True, 1422: False}


def test_routed_containers(nodes: NodesFactory) -> None:
    made = nodes(2, 2, routed=True, ipv6=True, underlay6=True)
    near, beside, other, _ = made.containers
    assert (near.address4, beside.address4, other.address4) == ("10.20.0.1", "10.20.1.1", "10.21.0.1")
    for family in ("address4", "address6"):
        assert ping(near.ns, getattr(beside, family), count=2).lost == 0
    for i, one in enumerate(made.nodes):
        peer = made[1 - i]
        one.ns.run(["ip", "route", "add", f"10.{21 - i}.0.0/16", "via", peer.address4])
        one.ns.run(["ip", "route", "add", f"fd01:{2 - i}::/32", "via", peer.address6])
    assert ping(near.ns, other.address4, count=2).lost == 0
    assert ping(near.ns, other.address6, count=2).lost == 0


# What is built


def test_addresses_are_distinct_and_the_same_each_time(nodes: NodesFactory) -> None:
    one, other = nodes(2, 2), nodes(2, 2)
    assert [node.mac for node in one.nodes] == [node.mac for node in other.nodes]
    assert [each.mac for each in one.containers] == [each.mac for each in other.containers]
    links = [link for node in one.nodes for link in node.ns.ipr().link("dump") if link.get("ifname") != "lo"]
    macs = [link.get("address") for link in links] + [each.mac for each in one.containers]
    assert len(set(macs)) == len(macs) == 2 * (1 + 2 + 2)
    assert [each.address4 for each in one.containers] == ["10.1.1.1", "10.1.1.2", "10.1.2.1", "10.1.2.2"]


def test_mtus_and_offloads(nodes: NodesFactory) -> None:
    made = nodes(
        2, underlay_mtu=9000, container_mtu=8950, offloads={"tx": False}, node_offloads={"gro": True},
        middle_offloads={"tso": False},
    )  # fmt: skip
    node, container = made[0], made[0].containers[0]
    for ns, dev, mtu in ((node.ns, "eth0", 9000), (made.middle[0], "u0", 9000), (container.ns, "eth0", 8950)):
        assert ns.ipr().link("get", ifname=dev)[0].get("mtu") == mtu
    assert not get_offload(container.ns, "eth0", "tx")
    assert get_offload(node.ns, "p0", "gro")
    assert get_offload(node.ns, "eth0", "gro")
    assert not get_offload(made.middle[0], "u1", "tso")


@pytest.mark.parametrize(
    "arguments", [{"n": 0}, {"n": 3, "direct": True}, {"n": 1, "router_mtu": 1400}, {"n": 2, "containers": 101}]
)
def test_shapes_that_cannot_be(arguments: dict[str, int]) -> None:
    with pytest.raises(LabError):
        Nodes(**arguments)


def test_nothing_stays(requires_root: None) -> None:
    names: list[str] = []

    def fail() -> None:
        with Nodes(2, prefix="pl") as made:
            vxlan_everywhere(made)
            names.extend(each.ns.name for each in (*made.nodes, *made.containers))
            assert all(Path("/run/netns", name).exists() for name in names)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert len(names) == 4
    assert not any(Path("/run/netns", name).exists() for name in names)
