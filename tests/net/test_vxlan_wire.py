# SPDX-License-Identifier: Apache-2.0
"""What mode vxlan puts on the wire, field by field beside what the kernel's own device makes of the same inner frame.

Node 0 has pydp, node 1 the kernel's bridge and vxlan device, node 2 is the VTEP that both send to: a namespace that
listens.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.layers.vxlan import VXLAN

from pydp.lab import Capture, Nodes, send_frame
from tests.net.bridging import EXPERIMENT, count, verdicts
from tests.net.tunnelling import NodesFactory, lab_options, polled, pydp_end

pytestmark = pytest.mark.usefixtures("requires_root", "bpffs")

FAR, UNKNOWN, HERE = "02:00:00:00:99:01", "02:00:00:00:99:02", "02:00:00:00:99:03"
FRAMES = 60
# Options of pydp, and what `ip link add type vxlan` calls them.
POLICIES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "default": ({}, {"udpcsum": False}),
    "inherit": (
        {"ttl": "inherit", "tos": "inherit", "df": "inherit"},
        {"ttl": "inherit", "tos": "inherit", "df": "inherit", "udpcsum": False},
    ),
    "fixed": (
        {"ttl": "9", "tos": "0x48", "df": "set", "srcport": "5000-6000", "dstport": 8472},
        {"ttl": 9, "tos": "0x48", "df": "set", "srcport": "5000 6000", "dstport": 8472, "udpcsum": False},
    ),
    "checksums": ({"udp_csum": True}, {"udpcsum": True}),
}


@dataclass(frozen=True, slots=True)
class Twins:
    """Both senders with the same neighbour and port, and what node 2 hears of them."""

    made: Nodes
    wire: Capture
    port: int

    def sent(self, frame: bytes) -> tuple[Any, Any]:
        """What becomes of a frame from the container of either node."""
        found: dict[str, Any] = {}
        for node in self.made.nodes[:2]:
            send_frame(node.containers[0].ns, "eth0", frame)
        for _ in range(20):
            for one in self.wire.frames(2, timeout=2):
                packet = Ether(one)
                if UDP in packet and packet[UDP].dport == self.port:
                    source = packet[IPv6].src if packet.type == 0x86DD else packet[IP].src
                    assert source not in found, "sent twice"
                    found[source] = one
            if len(found) == 2:
                break
        made = self.made
        return next(
            (found[one], found[other])
            for one, other in ((made[0].address4, made[1].address4), (made[0].address6, made[1].address6))
            if one in found
        )


@contextlib.contextmanager
def twins(made: Nodes, hook: str, policy: str, *, ipv6: bool = False) -> Iterator[Twins]:
    ours, kernels = POLICIES[policy]
    listener = made[2]
    address = listener.address6 if ipv6 else listener.address4
    port = ours.get("dstport", 4789)
    where: Mapping[str, Any] = {"local": made[1].address6} if ipv6 else {}
    kernels = {"port": port, **{key: value for key, value in kernels.items() if key != "dstport"}, **where}
    if ipv6:
        kernels |= {"udpcsum": None, "udp6zerocsumtx": not ours.get("udp_csum", False)}
        ours = {"udp_csum": False, **ours}
    with contextlib.ExitStack() as stack:
        stack.enter_context(pydp_end(made, made[0], hook=hook, ipv6=ipv6, remote=[address], **ours))
        made.kernel_vxlan(made[1], remotes=[address], **kernels)
        stack.callback(made.kernel_down, made[1])
        wire = stack.enter_context(Capture(listener.ns, "eth0"))
        found = Twins(made, wire, port)
        introduce(found, ipv6=ipv6)
        yield found


def introduce(found: Twins, *, ipv6: bool) -> None:
    """Have both learn that FAR is behind the VTEP and HERE behind their port, and resolve the way."""
    listener = found.made[2]
    for node in found.made.nodes[:2]:
        ip = IPv6(src=listener.address6, dst=node.address6) if ipv6 else IP(src=listener.address4, dst=node.address4)
        inner = Ether(src=FAR, dst="ff:ff:ff:ff:ff:ff", type=0x88B6) / bytes(46)
        packet = Ether(src=listener.mac, dst=node.mac) / ip / UDP(sport=40000, dport=found.port)
        send_frame(listener.ns, "eth0", bytes(packet / VXLAN(vni=100, flags=8) / inner))
    for _ in range(4):
        for node in found.made.nodes[:2]:
            send_frame(node.containers[0].ns, "eth0", raw(FAR))
    found.wire.frames(1000, timeout=0.3)


def raw(dest: str) -> bytes:
    return bytes.fromhex((dest + HERE).replace(":", "")) + EXPERIMENT + bytes(46)


def inner_frame(dice: random.Random, dest: str) -> bytes:
    """Any frame that a container may send."""
    packet = Ether(dst=dest, src=HERE)
    tags = dice.choice([0, 0, 0, 0, 1, 2])
    if tags == 2:
        packet /= Dot1AD(vlan=dice.randrange(1, 4095))
    if tags:
        packet /= Dot1Q(vlan=dice.randrange(1, 4095), prio=dice.randrange(8))
    room = dice.randrange(1300)
    kind = dice.randrange(10)
    if kind == 0:
        return bytes(packet / ARP(op=dice.choice([1, 2]), psrc="10.0.0.1", pdst="10.0.0.2") / bytes(18))
    if kind == 1:
        packet.lastlayer().type = 0x88B6
        return bytes(packet) + dice.randbytes(46 + room)
    if kind < 6:
        flags = dice.choice(["", "DF", "DF", "MF"]) if kind < 5 else ""
        packet /= IP(src="10.0.0.1", dst="10.0.0.2", tos=dice.randrange(256), ttl=dice.randrange(1, 256), flags=flags)
    else:
        packet /= IPv6(src="fd00::1", dst="fd00::2", tc=dice.randrange(256), hlim=dice.randrange(1, 256))
    ports = {"sport": dice.randrange(1, 65536), "dport": dice.randrange(1, 65536)}
    four = IP in packet
    top = dice.choice([UDP(**ports), TCP(**ports, flags="A"), ICMP() if four else ICMPv6EchoRequest(), None])
    return bytes((packet / top if top is not None else packet) / dice.randbytes(room + 20))


def without_names(frame: bytes) -> dict[str, Any]:
    """All fields outside but those that must differ: whose packet it is, its number, and sums over these."""
    packet = Ether(frame)
    six = packet.type == 0x86DD
    ip = packet[IPv6] if six else packet[IP]
    names = ("version", "tc", "fl", "plen", "nh", "hlim") if six else (
        "version", "ihl", "tos", "len", "flags", "frag", "ttl", "proto"
    )  # fmt: skip
    header = 14 + (40 if six else 20)
    return {
        "to": packet.dst,
        "type": packet.type,
        "daddr": ip.dst,
        **{name: getattr(ip, name) for name in names},
        "sport": packet[UDP].sport,
        "dport": packet[UDP].dport,
        "udp length": packet[UDP].len,
        "checksum": packet[UDP].chksum != 0,
        "vxlan and inner frame": frame[header + 8 :].hex(),
    }


def sums_are_right(frame: bytes) -> None:
    """By scapy, which computes what is taken out."""
    packet = Ether(frame)
    if IP in packet and packet.type == 0x800:
        was = packet[IP].chksum
        del packet[IP].chksum
        assert Ether(bytes(packet))[IP].chksum == was
    if packet[UDP].chksum:
        payload = bytes(packet[UDP].payload)
        outer = packet.copy()
        outer[UDP].remove_payload()
        del outer[UDP].chksum
        assert Ether(bytes(outer / payload))[UDP].chksum == packet[UDP].chksum


@pytest.fixture(scope="module")
def three(module_nodes: NodesFactory, bpffs: object) -> Nodes:
    """Their devices fill checksums in: veth would leave that to the receiver."""
    return module_nodes(3, 1, underlay6=True, node_offloads={"tx": False})


@pytest.mark.parametrize(
    ("policy", "ipv6"), [*((policy, False) for policy in POLICIES), ("inherit", True), ("checksums", True)]
)
def test_as_the_kernels_device(three: Nodes, policy: str, ipv6: bool) -> None:
    """On tc everything is the same, the source port too: both take the stack's hash of the flow. Every other frame
    is for an address that nobody knows, so that the companion sends it."""
    dice = random.Random(f"{policy} {ipv6}")
    with twins(three, "tc", policy, ipv6=ipv6) as found:
        for number in range(FRAMES):
            frame = inner_frame(dice, (FAR, UNKNOWN)[number % 2])
            mine, kernels = found.sent(frame)
            assert without_names(mine) == without_names(kernels), frame.hex()
            assert mine.endswith(frame)
            sums_are_right(mine)
        assert count(three[0].ns, "flood_ports", port="p0") >= FRAMES / 2
        assert count(three[0].ns, "forward_encap", port="p0") >= FRAMES / 8


@pytest.mark.parametrize("policy", ["inherit"])
def test_as_the_kernels_device_by_xdp(nodes: NodesFactory, policy: str) -> None:
    """There the stack has no hash yet: the source port is another function of the flow, in the same range."""
    made = polled(nodes(3, 1, **lab_options("xdp")))
    dice = random.Random(policy)
    with twins(made, "xdp", policy) as found:
        for number in range(FRAMES // 2):
            frame = inner_frame(dice, (FAR, FAR, UNKNOWN)[number % 3])
            mine, kernels = (without_names(one) for one in found.sent(frame))
            assert 32768 <= mine.pop("sport") < 60999
            kernels.pop("sport")
            assert mine == kernels, frame.hex()
        by_hook = verdicts(made[0].ns, hook="xdp")
        assert by_hook["p0", "forward_encap"] >= FRAMES / 12
