# SPDX-License-Identifier: Apache-2.0
"""The kernel's ipvlan devices as oracle: twin hosts, one with such devices, the other with veths and pydp, see the same
frames and must send the same frames to the same places.

Captures see what arrives; then it is dropped, so that no stack answers and all that is sent is the test's.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptDstLLAddr, ICMPv6NDOptSrcLLAddr, IPv6
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.packet import Packet, Raw

from pydp.lab import Namespace, Segment
from tests.kernels.needs import examples, need_device
from tests.net.bridging import BROADCAST, OFFLOADS, SegmentFactory, attached, mac, port_mac, verdicts
from tests.net.sharing import (
    CHILDREN,
    END,
    PARENT,
    NamespaceFactory,
    Side,
    broadcast_end,
    containers,
    described,
    kernel_children,
    side,
)

pytestmark = [pytest.mark.usefixtures("requires_root", "bpffs"), pytest.mark.timeout(300)]

OWN = port_mac(0)  # what all children have as MAC address, the parent's
GROUPS4, GROUPS6 = ("224.0.0.5", "10.0.255.255", "255.255.255.255"), ("ff02::1", "ff02::1:ff00:2", "ff05::7")
_children = range(1, CHILDREN + 1)
OUTSIDE4, OUTSIDE6 = "10.0.0.1", "fd00::1"
_to4 = st.sampled_from([f"10.0.0.{one + 1}" for one in _children] * 2 + [OUTSIDE4, "10.0.7.7", *GROUPS4])
_to6 = st.sampled_from([f"fd00::{one + 1}" for one in _children] * 2 + [OUTSIDE6, "fd00::77", *GROUPS6])
_by4 = st.sampled_from([f"10.0.0.{one + 1}" for one in _children] + [OUTSIDE4, "10.0.7.7"])
_by6 = st.sampled_from([f"fd00::{one + 1}" for one in _children] + [OUTSIDE6, "::"])
_unicast = [OWN] * 4 + [mac(0), mac(8)]
_groups = [b"\xff" * 6, *map(bytes.fromhex, ("01005e000005", "333300000001", "3333ff000002", "0180c200000e"))]
_dests = st.sampled_from(_unicast * 2 + _groups)
_tags = st.sampled_from(["", "", "", "", "Q", "AD"])
_kinds = st.sampled_from(["ipv4", "ipv4", "ipv6", "ipv6", "arp", "arp", "solicit", "advertise", "other", "pause"])
MIXED = b"\5" * 64


def text(address: bytes) -> str:
    return address.hex(":")


@dataclass(frozen=True, slots=True)
class Send:
    """A frame sent from outside (0) or by a child. ``by`` and ``to``: IP addresses, or those that ARP and neighbour
    discovery are about. ``sent_back``: it comes from outside with the children's MAC address.
    """

    sender: int
    kind: str
    dest: bytes
    by: str
    to: str
    tag: str
    op: int
    sent_back: bool

    def data(self, own: bytes) -> bytes:
        """As a sender whose MAC address is OWN sends it."""
        packet: Packet = Ether(dst=text(self.dest), src=text(own))
        packet /= {"": Raw(b""), "Q": Dot1Q(vlan=5), "AD": Dot1AD(vlan=7)}[self.tag]
        if not self.tag:
            packet = Ether(dst=text(self.dest), src=text(own))
        if self.kind in ("other", "pause"):
            packet.lastlayer().type = 0x88B6 if self.kind == "other" else 0x8808
        return bytes(packet / self._content(own))

    def _content(self, own: bytes) -> Packet:
        udp = UDP(sport=1, dport=2, chksum=0 if self.kind == "ipv4" else None) / Raw(MIXED)
        if self.kind == "ipv4":
            return IP(src=self.by, dst=self.to, ttl=9, id=7) / udp
        if self.kind == "ipv6":
            return IPv6(src=self.by, dst=self.to, hlim=9) / udp
        if self.kind == "arp":
            return ARP(op=self.op, hwsrc=text(own), psrc=self.by, hwdst=text(self.dest), pdst=self.to) / Raw(bytes(32))
        option = ICMPv6NDOptSrcLLAddr if self.kind == "solicit" else ICMPv6NDOptDstLLAddr
        if self.kind == "solicit":
            head = IPv6(src=self.by, dst=self.to) / ICMPv6ND_NS(tgt=self.to)
            return head if self.by == "::" else head / option(lladdr=text(own))
        if self.kind == "advertise":
            return IPv6(src=self.by, dst=self.to) / ICMPv6ND_NA(tgt=self.by) / option(lladdr=text(own))
        return Raw(MIXED)


@st.composite
def _sends(draw: st.DrawFn, kinds: Sequence[str]) -> Send:
    sender, kind = draw(st.integers(0, CHILDREN)), draw(_kinds.filter(lambda one: one in kinds))
    ipv6 = kind in ("ipv6", "solicit", "advertise")
    by, to = draw(_by6 if ipv6 else _by4), draw(_to6 if ipv6 else _to4)
    sent_back = sender == 0 and draw(st.sampled_from([False, False, True]))
    return Send(sender, kind, draw(_dests), by, to, draw(_tags), draw(st.sampled_from([1, 2])), sent_back)


def as_seen(frame: bytes, child: bytes) -> bytes:
    """What arrives at a kernel's device, as it arrives at a container that has a MAC address of its own."""
    at = 12
    while frame[at : at + 2] in (b"\x81\x00", b"\x88\xa8"):
        at += 4
    if frame[:6] != OWN:
        return frame
    frame = child + frame[6:]
    target = at + 2 + 18
    if frame[at : at + 2] == b"\x08\x06" and frame[target : target + 6] == OWN:
        frame = frame[:target] + child + frame[target + 6 :]
    return frame


def is_noise(frame: bytes) -> bool:
    """Is it of a stack that has only just come to life, or looks for whom it is to send to? Multicast listener reports,
    router solicitations, and what the host asks in its own name, or says of who did not answer, in its own time.
    """
    if frame[12:14] == b"\x08\x00":
        return frame[6:12] == OWN and frame[15] == 0xC0 and frame[23] == 1 and frame[34] == 3
    if frame[12:14] == b"\x08\x06":
        return frame[:12] == BROADCAST + OWN
    if frame[12:14] != b"\x86\xdd":
        return False
    return frame[20] == 0 or (
        frame[20] == 58 and (frame[54] in (133, 143) or (frame[54] == 135 and frame[6:12] == OWN))
    )


def silence(ns: Namespace) -> None:
    """Have the stack behind eth0 see nothing. A capture does."""
    ns.run(["tc", "qdisc", "add", "dev", "eth0", "clsact"])
    ns.run(["tc", "filter", "add", "dev", "eth0", "ingress", "matchall", "action", "drop"])


def prepare(segment: Segment, children: Sequence[tuple[Namespace, str]]) -> None:
    """Children get their addresses, the host a route to the outside, which it knows."""
    for number, (ns, dev) in enumerate(children, 2):
        ns.run(["ip", "address", "flush", "dev", dev, "scope", "global"])
        ns.run(["ip", "address", "add", f"10.0.0.{number}/32", "dev", dev])
        ns.run(["ip", "address", "add", f"fd00::{number}/128", "dev", dev, "nodad"])
        silence(ns)
    silence(segment[0].ns)
    segment.sw.run(["ip", "route", "add", "10.0.0.0/16", "dev", PARENT])
    for address in (OUTSIDE4, "10.0.7.7"):
        neighbour = [address, "lladdr", text(mac(0)), "nud", "permanent", "dev", PARENT]
        segment.sw.run(["ip", "neighbour", "add", *neighbour])


def unicast_end(number: int, child: int, *, own: bool) -> tuple[bytes, bytes]:
    """What comes last where nothing is copied: a packet for each. OWN: the child has a MAC address of its own."""
    packet = IP(src=OUTSIDE4, dst=f"10.0.0.{child + 1}") / UDP(sport=9, dport=9) / Raw(number.to_bytes(46, "big"))
    sent = OWN + END + b"\x08\x00" + bytes(packet)
    return sent, as_seen(sent, mac(child)) if own else sent


@contextlib.contextmanager
def twins(
    segment: SegmentFactory, namespace: NamespaceFactory, kind: str, flag: str, hook: str
) -> Iterator[tuple[Side, Side]]:
    """The kernel's side and ours."""
    theirs = segment(1, offloads=OFFLOADS[hook])
    ours = segment(CHILDREN + 1, ipv6=True, offloads=OFFLOADS[hook])
    made = kernel_children(theirs, namespace, "ipvlan", kind, flags=(flag,), ipv6=True)
    prepare(theirs, made)
    prepare(ours, containers(ours))
    children = tuple(f"p{one}=10.0.0.{one + 1},fd00::{one + 1}" for one in _children)
    options = {"type": kind, "flag": flag, "child": children}
    with (
        attached(ours.sw, PARENT, mode="ipvlan", hook=hook, options=options),
        side(theirs, made) as one,
        side(ours, containers(ours)) as other,
    ):
        routed = kind != "l2"
        one.end = functools.partial(unicast_end, own=False) if routed else broadcast_end
        other.end = functools.partial(unicast_end, own=True) if routed else broadcast_end
        yield one, other
        assert "forward_port" in {name for _, name in verdicts(ours.sw)}  # else the kernel was compared with itself


def compare(theirs: Side, ours: Side, sent: Send) -> None:
    sender = sent.sender
    outside = OWN if sent.sent_back else mac(0)
    expected = theirs.exchange(sender, sent.data(OWN if sender else outside))
    seen = ours.exchange(sender, sent.data(mac(sender) if sender else outside))
    expected = [[one for one in frames if not is_noise(one)] for frames in expected]
    seen = [[one for one in frames if not is_noise(one)] for frames in seen]
    for child in _children:
        expected[child] = [as_seen(frame, mac(child)) for frame in expected[child]]
    assert described(seen) == described(expected), sent
    assert seen == expected, sent


# Types l3: a container asks for neighbours, which the kernel's device never does.
KINDS = {"l2": ["ipv4", "ipv6", "arp", "solicit", "advertise", "other", "pause"], "l3": ["ipv4", "ipv6", "other"]}
CASES = [
    (kind, flag, hook) for kind in ("l2", "l3") for flag in ("bridge", "private", "vepa") for hook in ("tc", "xdp")
]


@pytest.mark.parametrize(("kind", "flag", "hook"), CASES)
def test_random_frames_go_where_the_kernel_sends_them(
    segment: SegmentFactory, namespace: NamespaceFactory, kind: str, flag: str, hook: str
) -> None:
    need_device(f"link under0 type ipvlan mode {kind}")
    with twins(segment, namespace, kind, flag, hook) as (theirs, ours):

        @settings(max_examples=examples(30), deadline=None, derandomize=True)
        @given(sequence=st.lists(_sends(KINDS[kind]), min_size=1, max_size=6))
        def run(sequence: list[Send]) -> None:
            for sent in sequence:
                compare(theirs, ours, sent)

        run()
