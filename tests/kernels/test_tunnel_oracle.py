# SPDX-License-Identifier: Apache-2.0
"""Mode ipip and the kernel's own tunnel devices: each end talks to the other, and both put the same on the wire."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import GRE, Ether
from scapy.packet import Packet, Raw

from pydp.lab import Capture, Namespace, Node, Nodes, ping, tcp_transfer
from tests.conftest import enter_nodes
from tests.kernels.needs import need_device, sampled
from tests.net.bridging import attached
from tests.net.test_ipip import end, is_inner6, is_outer6, network, options, target
from tests.net.tunnelling import lab_options, polled, send_sizes

pytestmark = [pytest.mark.usefixtures("requires_root", "bpffs"), pytest.mark.timeout(300)]

STREAM = 200_000
SIZES = sampled((0, 1, 100, *range(1400, 1475), 2000, 2953, 8999))  # bytes of UDP, around what fits the tunnel's MTU
PACKETS = sampled([  # bytes of payload, TOS, TTL
    *((100, tos, ttl) for tos in (0, 1, 2, 3, 0xB8) for ttl in (1, 2, 255)),
    *((size, 0, 64) for size in (0, 1, 1400, *range(1388, 1456, 4))),
])  # fmt: skip
KEY = 0xFFFFFFFF  # as tests.net.test_ipip.options has it


@dataclass(frozen=True, slots=True)
class Kind:
    """``words`` make the kernel's device. ``inner6`` and ``outer6``: what goes in what."""

    words: str
    name: str

    @property
    def inner6(self) -> bool:
        return is_inner6(self.name)

    @property
    def outer6(self) -> bool:
        return is_outer6(self.name)


KINDS = {
    "ipip": Kind("type ipip", "ipip"),
    "sit": Kind("type sit mode ip6ip", "sit"),
    "gre": Kind(f"type gre key {KEY}", "gre"),
    "ip6ip6": Kind("type ip6tnl mode ip6ip6 encaplimit none", "ip6ip6"),
    "ip6ip6-limit": Kind("type ip6tnl mode ip6ip6 encaplimit 4", "ip6ip6"),
    "ip4ip6": Kind("type ip6tnl mode ipip6 encaplimit none", "ip4ip6"),
}


def kernel_device(kind: Kind, local: str, remote: str) -> list[str]:
    return ["ip", "link", "add", "tun0", *kind.words.split(), "local", local, "remote", remote, "dev", "eth0"]


@contextlib.contextmanager
def kernel_end(node: Node, other: Node, kind: Kind) -> Iterator[None]:
    """A node with a tunnel device of the kernel's."""
    node.ns.run(kernel_device(kind, end(node, kind.name), end(other, kind.name)))
    try:
        node.ns.run(["ip", "link", "set", "tun0", "up"])
        node.ns.run(["ip", "route", "add", network(other, kind.name), "dev", "tun0"])
        yield
    finally:
        node.ns.run(["ip", "link", "del", "tun0"])


@contextlib.contextmanager
def pydp_end(node: Node, other: Node, kind: Kind, hook: str, *, port: bool = True) -> Iterator[None]:
    given = options(node, other, kind=kind.name, **({"port": ("p0",)} if port else {}))
    with attached(node.ns, "eth0", mode="ipip", hook=hook, options=given):
        yield


@dataclass(frozen=True, slots=True)
class Lab:
    """Two nodes on one wire."""

    kind: Kind
    hook: str
    made: Nodes


@pytest.fixture(scope="module")
def lab(request: pytest.FixtureRequest, requires_root: None) -> Iterator[Lab]:
    """For one kind and hook, and all tests of these; or a skip. Where the kernel's end was, pydp's may be next."""
    name, hook = request.param
    kind = KINDS[name]
    v6 = kind.outer6
    ends = "local 2001:db8::1 remote 2001:db8::2" if v6 else "local 192.0.2.1 remote 192.0.2.2"
    need_device(f"{kind.words} {ends}")
    with contextlib.ExitStack() as stack:
        made = enter_nodes(
            stack, 2, direct=True, routed=True, ipv6=kind.inner6, underlay6=v6, container_mtu=1500, **lab_options(hook)
        )
        for node in made.nodes if v6 else ():
            node.ns.sysctl("ipv6.conf.all.forwarding", 1)
        yield Lab(kind, hook, polled(made) if hook != "tc" else made)


def labs(names: Iterable[str], *hooks: str) -> pytest.MarkDecorator:
    cases = [(name, hook) for name in names for hook in hooks]
    return pytest.mark.parametrize("lab", cases, ids=["-".join(one) for one in cases], indirect=True)


each_lab = labs([name for name in KINDS if name != "ip6ip6-limit"], "tc", "xdp")


def learn_mtu(source: Namespace, address: str) -> None:
    """Have a sender know what fits the tunnel. TCP need not find out: who knows already may offer a segment size that
    fits. Else the first datagram that does not fit is an error of the next one.
    """
    assert ping(source, address, count=1, size=1500 - (48 if ":" in address else 28), extra=("-M", "do")).lost


@labs(KINDS, "tc", "xdp")
def test_each_end_talks_to_the_other(lab: Lab) -> None:
    """Ping, TCP and UDP of many sizes, both ways, with pydp at one end and a device of the kernel's at the other."""
    check_talk(lab, port=True)


@labs(KINDS, "tc")
def test_the_stack_talks_to_the_other(lab: Lab) -> None:
    """The same, where what pydp takes out of the tunnel goes to its node's stack, which routes it."""
    check_talk(lab, port=False)


def check_talk(lab: Lab, *, port: bool) -> None:
    kind = lab.kind
    one, other = lab.made.nodes
    with pydp_end(one, other, kind, lab.hook, port=port), kernel_end(other, one, kind):
        near, far = one.containers[0], other.containers[0]
        for source, sink, node in ((near, far, other), (far, near, one)):
            address = target(node, kind.name)
            assert ping(source.ns, address, count=2).lost == 0
            assert tcp_transfer(sink.ns, source.ns, address, STREAM).bytes == STREAM
            learn_mtu(source.ns, address)
            send_sizes(source.ns, sink.ns, address, SIZES)


# What is on the wire


def sent_packets(source: str, dest: str, *, v6: bool) -> Iterator[Packet]:
    """Packets a container sends: TOS, TTL and DF in all ways that tunnels tell apart, and sizes around the MTU."""
    for size, tos, ttl in PACKETS:
        content = UDP(sport=1000, dport=2000) / Raw(bytes(size))
        if v6:
            yield IPv6(src=source, dst=dest, tc=tos, hlim=ttl) / content
        else:
            for flags in ("", "DF"):
                yield IP(src=source, dst=dest, tos=tos, ttl=ttl, flags=flags, id=size + 1) / content


def without_choices(frame: bytes) -> bytes:
    """A frame less what two senders are free to choose: the outer ID with the checksum that follows, or flow label."""
    if frame[12:14] == b"\x08\x00":
        return frame[:18] + b"\0\0" + frame[20:24] + b"\0\0" + frame[26:]
    return frame[:15] + bytes([frame[15] & 0xF0]) + b"\0\0" + frame[18:]


def is_tunnelled(frame: bytes, kind: Kind) -> bool:
    if kind.outer6:
        return frame[12:14] == b"\x86\xdd" and frame[20] in (4, 41, 60)
    return frame[12:14] == b"\x08\x00" and frame[23] in (4, 41, 47)


def port_address(node: Node, dev: str) -> str:
    shown = json.loads(node.ns.run(["ip", "-json", "link", "show", dev]).stdout)
    return str(shown[0]["address"])


def acquaint(made: Nodes, kind: Kind) -> None:
    """Have the nodes know each other's MAC address, and their own containers'."""
    for node, other in (made.nodes, made.nodes[::-1]):
        assert ping(node.ns, end(other, kind.name)).lost == 0
        assert ping(node.ns, target(node, kind.name)).lost == 0


def outgoing(made: Nodes, kind: Kind, packets: Sequence[Packet]) -> list[list[bytes]]:
    """For each of the packets of the first node's container to the second's, what arrives at the second node."""
    one, other = made.nodes
    container = one.containers[0]
    link = Ether(dst=port_address(one, container.port), src=container.mac)
    seen = []
    acquaint(made, kind)
    with Capture(container.ns, "eth0") as sender, Capture(other.ns, "eth0", peer=(one.ns, "eth0")) as wire:
        for packet in packets:
            sender.send(bytes(link / packet))
            seen.append([without_choices(frame) for frame in wire.drain() if is_tunnelled(frame, kind)])
    return seen


@each_lab
def test_the_same_goes_out(lab: Lab) -> None:
    """Every byte but outer ID, checksum and flow label."""
    kind, made = lab.kind, lab.made
    packets = list(sent_packets(target(made[0], kind.name), target(made[1], kind.name), v6=kind.inner6))
    with kernel_end(*made.nodes, kind):
        expected = outgoing(made, kind, packets)
    assert sum(map(len, expected)) > len(expected) // 2  # else there is nothing to compare
    with pydp_end(*made.nodes, kind, lab.hook):
        found = outgoing(made, kind, packets)
    for packet, their, our in zip(packets, expected, found, strict=True):
        assert our == their, packet.summary()


def outer_of(kind: Kind, source: str, dest: str, *, tos: int) -> Packet:
    if kind.outer6:
        return IPv6(src=source, dst=dest, tc=tos, hlim=64)
    head = IP(src=source, dst=dest, tos=tos, ttl=64, flags="DF")
    if kind.name != "gre":
        return head
    return head / GRE(key_present=1, key=KEY, proto=0x0800)


def incoming(made: Nodes, kind: Kind, packets: Sequence[bytes]) -> list[list[bytes]]:
    """For each tunnel packet that reaches the first node, what arrives at its container."""
    one, other = made.nodes
    container = one.containers[0]
    link = bytes(Ether(dst=one.mac, src=other.mac, type=0x86DD if kind.outer6 else 0x0800))
    seen = []
    acquaint(made, kind)
    with Capture(other.ns, "eth0") as sender, Capture(container.ns, "eth0", peer=(one.ns, container.port)) as wire:
        for packet in packets:
            sender.send(link + packet)
            seen.append([frame for frame in wire.drain() if is_payload(frame)])
    return seen


def tunnelled_packets(made: Nodes, kind: Kind) -> Iterator[bytes]:
    """Congestion marks on either side, TTLs that just reach and that do not; what a wire takes."""
    one, other = made.nodes
    ends = end(other, kind.name), end(one, kind.name)
    source, dest = target(other, kind.name), target(one, kind.name)
    for tos in (0, 1, 2, 3, 0xB8):
        outer = outer_of(kind, *ends, tos=tos)
        for packet in sent_packets(source, dest, v6=kind.inner6):
            if len(whole := bytes(outer / packet)) <= 1500:
                yield whole


def is_payload(frame: bytes) -> bool:
    """Whether it is UDP of ours, not what else a stack says."""
    packet = Ether(frame)
    return UDP in packet and packet[UDP].dport == 2000


@each_lab
def test_the_same_comes_out(lab: Lab) -> None:
    """What the kernel's device hands to a container, pydp does, byte by byte."""
    kind, made = lab.kind, lab.made
    packets = list(tunnelled_packets(made, kind))
    with kernel_end(*made.nodes, kind):
        expected = incoming(made, kind, packets)
    assert sum(map(len, expected)) > len(expected) // 2
    with pydp_end(*made.nodes, kind, lab.hook):
        found = incoming(made, kind, packets)
    for packet, their, our in zip(packets, expected, found, strict=True):
        assert our == their, (IPv6 if kind.outer6 else IP)(packet).summary()
