# SPDX-License-Identifier: Apache-2.0
"""What stage ipvlan makes of frames: those that come in by the parent, from child to child, and by a child."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_RS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptMTU,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptSrcLLAddr,
)

from tests.datapath.frames import BROADCAST, IP, MULTICAST, Dot1AD, Raw, mac, tagged
from tests.datapath.harness import DROP, PASS, REDIRECT
from tests.datapath.ipvlan_frames import advertise, arp, ipv4, ipv6, made, nd, raw, solicit

TYPES = ("l2", "l3", "l3s")
FLAGS = ("bridge", "private", "vepa")
PARENT = "02:00:00:00:01:00"
PORTS = {number: f"02:00:00:00:01:{number:02x}" for number in range(4)}
OUTSIDE, OUT4, OUT6 = 9, "10.0.0.9", "fd00::9"
HOST4, HOST6 = "10.0.0.254", "fd00::fe"
CHILDREN = {"child": tuple(f"p{number}=10.0.0.{number},fd00::{number}" for number in (1, 2, 3))}
PAUSE = "01:80:c2:00:00:01"
ALL_NODES, ASKED = "33:33:00:00:00:01", "33:33:ff:00:00:09"
FORWARD, UP, ON = ("FORWARD_PORT", REDIRECT), ("FLOOD_PORTS", PASS), ("FLOOD_PORTS", REDIRECT)
REPLY, LOCAL, NOT_OURS = ("FORWARD_REPLY", REDIRECT), ("PUNT_LOCAL", PASS), ("PASS_UNCLAIMED", PASS)
ROUTE = ("PUNT_ROUTE", PASS)
GROUP, PROTOCOL, ISOLATED = ("DROP_GROUP", DROP), ("DROP_PROTOCOL", DROP), ("DROP_ISOLATED", DROP)
ZERO = "00:00:00:00:00:00"


@dataclass(frozen=True, slots=True)
class Case:
    """FRAME comes in at PORT of an instance of one of TYPES with one of FLAGS, and leaves as OUT, "" for as it came."""

    sentence: str
    frame: bytes
    verdict: str
    action: str
    out: bytes = b""
    types: Sequence[str] = TYPES
    flags: Sequence[str] = FLAGS
    port: int = 0

    def on(self, hook: str) -> Case:
        """XDP cannot copy, nor hand to the host what came in elsewhere: the tc program beside it does."""
        if hook == "xdp" and self.verdict == "FLOOD_PORTS":
            return replace(self, verdict="PUNT_FLOOD", action=PASS, out=b"")
        return self


L2, L3, L3S, DIRECT, ROUTED = ("l2",), ("l3",), ("l3s",), ("l2", "l3"), ("l3", "l3s")

IN = [
    Case(
        "IPv4 for a child",
        ipv4(PARENT, OUTSIDE, "10.0.0.1", OUT4),
        *FORWARD,
        ipv4(1, OUTSIDE, "10.0.0.1", OUT4),
        DIRECT,
    ),
    Case(
        "IPv6 for a child", ipv6(PARENT, OUTSIDE, "fd00::3", OUT6), *FORWARD, ipv6(3, OUTSIDE, "fd00::3", OUT6), DIRECT
    ),
    Case("IPv4 for a child, by the stack", ipv4(PARENT, OUTSIDE, "10.0.0.1", OUT4), *ROUTE, types=L3S),
    Case("IPv6 for a child, by the stack", ipv6(PARENT, OUTSIDE, "fd00::3", OUT6), *ROUTE, types=L3S),
    Case(
        "for a child's link-local address",
        ipv6(PARENT, OUTSIDE, "fe80::ff:fe00:a02", "fe80::9"),
        *FORWARD,
        ipv6(2, OUTSIDE, "fe80::ff:fe00:a02", "fe80::9"),
        DIRECT,
    ),
    Case("IPv4 for the host", ipv4(PARENT, OUTSIDE, HOST4, OUT4), *LOCAL),
    Case("IPv6 for the host", ipv6(PARENT, OUTSIDE, HOST6, OUT6), *LOCAL),
    Case("another protocol for the host", raw(PARENT, OUTSIDE), *LOCAL),
    Case("for another station", ipv4(8, OUTSIDE, HOST4, OUT4), *NOT_OURS),
    Case("for a child by another station's MAC address", ipv4(8, OUTSIDE, "10.0.0.1", OUT4), *FORWARD, types=DIRECT),
    Case(
        "tagged, for a child",
        ipv4(PARENT, OUTSIDE, "10.0.0.1", OUT4, tagged(5)),
        *FORWARD,
        ipv4(1, OUTSIDE, "10.0.0.1", OUT4, tagged(5)),
        DIRECT,
    ),
    Case("two tags", ipv4(PARENT, OUTSIDE, "10.0.0.1", OUT4, Dot1AD(vlan=7), tagged(5)), *LOCAL),
    Case("ARP request", arp(BROADCAST, OUTSIDE, 1, (mac(9), OUT4), (ZERO, "10.0.0.1")), *UP, types=L2),
    Case("ARP request for the host", arp(BROADCAST, OUTSIDE, 1, (mac(9), OUT4), (ZERO, HOST4)), *UP, types=L2),
    Case(
        "ARP request for the host, routed",
        arp(BROADCAST, OUTSIDE, 1, (mac(9), OUT4), (ZERO, HOST4)),
        *NOT_OURS,
        types=ROUTED,
    ),
    Case(
        "ARP request for a child that has no ARP",
        arp(BROADCAST, OUTSIDE, 1, (mac(9), OUT4), (ZERO, "10.0.0.1")),
        *PROTOCOL,
        types=ROUTED,
    ),
    Case(
        "ARP reply to a child",
        arp(PARENT, OUTSIDE, 2, (mac(9), OUT4), (PARENT, "10.0.0.2")),
        *FORWARD,
        arp(2, OUTSIDE, 2, (mac(9), OUT4), (mac(2), "10.0.0.2")),
        L2,
    ),
    Case("ARP reply to the host", arp(PARENT, OUTSIDE, 2, (mac(9), OUT4), (PARENT, HOST4)), *LOCAL),
    Case("neighbour solicitation", solicit(ASKED, OUTSIDE, OUT6, "fd00::1", mac(9)), *UP, types=L2),
    Case("neighbour solicitation, routed", solicit(ASKED, OUTSIDE, OUT6, "fd00::1", mac(9)), *NOT_OURS, types=ROUTED),
    Case(
        "neighbour solicitation to a child alone",
        solicit(PARENT, OUTSIDE, OUT6, "fd00::1", mac(9), "fd00::1"),
        *FORWARD,
        solicit(1, OUTSIDE, OUT6, "fd00::1", mac(9), "fd00::1"),
        DIRECT,
    ),
    Case(
        "looks whether a child's address is free, to it alone",
        nd(PARENT, OUTSIDE, "::", "ff02::1:ff00:1", ICMPv6ND_NS(tgt="fd00::1")),
        *FORWARD,
        nd(1, OUTSIDE, "::", "ff02::1:ff00:1", ICMPv6ND_NS(tgt="fd00::1")),
        DIRECT,
    ),
    Case(
        "looks whether another address is free",
        nd(PARENT, OUTSIDE, "::", "fd00::1", ICMPv6ND_NS(tgt="fd00::8")),
        *LOCAL,
    ),
    Case("a router solicitation from nowhere", nd(PARENT, OUTSIDE, "::", "fd00::1", ICMPv6ND_RS()), *LOCAL),
    Case(
        "advertisement to a child",
        advertise(PARENT, OUTSIDE, OUT6, "fd00::1", mac(9)),
        *FORWARD,
        advertise(1, OUTSIDE, OUT6, "fd00::1", mac(9)),
        DIRECT,
    ),
    Case("broadcast", ipv4(BROADCAST, OUTSIDE, "10.0.0.255", OUT4), *UP, types=L2),
    Case("broadcast, routed", ipv4(BROADCAST, OUTSIDE, "10.0.0.255", OUT4), *NOT_OURS, types=ROUTED),
    Case("multicast", ipv4(MULTICAST, OUTSIDE, "224.0.0.251", OUT4), *UP, types=L2),
    Case(
        "broadcast with a child's IP address, routed as unicast",
        ipv4(BROADCAST, OUTSIDE, "10.0.0.1", OUT4),
        *FORWARD,
        types=L3,
    ),
    Case(
        "broadcast from the parent's MAC address and nobody's IP address",
        ipv4(BROADCAST, PARENT, "10.0.0.255", HOST4),
        *UP,
        types=L2,
    ),
    Case(
        "broadcast sent back: the children have seen it",
        ipv4(BROADCAST, PARENT, "10.0.0.255", "10.0.0.1"),
        *NOT_OURS,
        types=L2,
    ),
    Case(
        "an ARP request sent back", arp(BROADCAST, PARENT, 1, (PARENT, "10.0.0.1"), (ZERO, OUT4)), *NOT_OURS, types=L2
    ),
    Case(
        "a look whether an address is free, sent back",
        nd(ASKED, PARENT, "::", "ff02::1:ff00:1", ICMPv6ND_NS(tgt="fd00::1")),
        *NOT_OURS,
        types=L2,
    ),
    Case(
        "a child's IP address with another's MAC address: not sent back",
        ipv4(BROADCAST, OUTSIDE, "10.0.0.255", "10.0.0.1"),
        *UP,
        types=L2,
    ),
    Case("a pause frame", raw(PAUSE, OUTSIDE, 0x8808), *NOT_OURS, types=L2),
    Case(
        "an IPv4 header that is too short",
        made(PARENT, OUTSIDE, IP(src=OUT4, dst="10.0.0.1", ihl=4), Raw(bytes(30))),
        *LOCAL,
    ),
    Case(
        "an IPv4 packet shorter than it says",
        made(PARENT, OUTSIDE, IP(src=OUT4, dst="10.0.0.1", len=400), Raw(bytes(30))),
        *LOCAL,
    ),
    Case("what is said to be IPv6", raw(PARENT, OUTSIDE, 0x86DD), *LOCAL),
    Case(
        "as long as the MTU, header and a tag",
        ipv4(PARENT, OUTSIDE, "10.0.0.1", OUT4, size=1476),
        *FORWARD,
        ipv4(1, OUTSIDE, "10.0.0.1", OUT4, size=1476),
        DIRECT,
    ),
    Case("a byte longer", ipv4(PARENT, OUTSIDE, "10.0.0.1", OUT4, size=1477), "DROP_MTU", DROP, types=DIRECT),
]
BETWEEN = [
    Case(
        "IPv4 to another child",
        ipv4(PARENT, 1, "10.0.0.2", "10.0.0.1"),
        *FORWARD,
        ipv4(2, PARENT, "10.0.0.2", "10.0.0.1"),
        DIRECT,
    ),
    Case(
        "IPv6 to another child",
        ipv6(PARENT, 1, "fd00::2", "fd00::1"),
        *FORWARD,
        ipv6(2, PARENT, "fd00::2", "fd00::1"),
        DIRECT,
    ),
    Case(
        "to another child, through the port's address",
        ipv4(PORTS[1], 1, "10.0.0.2", "10.0.0.1"),
        *FORWARD,
        ipv4(2, PORTS[1], "10.0.0.2", "10.0.0.1"),
        L3S,
    ),
    Case(
        "to itself", ipv4(PARENT, 1, "10.0.0.1", "10.0.0.1"), *FORWARD, ipv4(1, PARENT, "10.0.0.1", "10.0.0.1"), DIRECT
    ),
    Case(
        "ARP reply to another child",
        arp(PARENT, 1, 2, (mac(1), "10.0.0.1"), (PARENT, "10.0.0.2")),
        *FORWARD,
        arp(2, PARENT, 2, (PARENT, "10.0.0.1"), (mac(2), "10.0.0.2")),
        L2,
    ),
    Case(
        "advertisement to another child",
        advertise(PARENT, 1, "fd00::1", "fd00::2", mac(1)),
        *FORWARD,
        advertise(2, PARENT, "fd00::1", "fd00::2", PARENT),
        L2,
    ),
]
OUT = [
    Case("IPv4, out", ipv4(OUTSIDE, 1, OUT4, "10.0.0.1"), *FORWARD, ipv4(OUTSIDE, PARENT, OUT4, "10.0.0.1"), L2),
    Case("IPv6, out", ipv6(OUTSIDE, 1, OUT6, "fd00::1"), *FORWARD, ipv6(OUTSIDE, PARENT, OUT6, "fd00::1"), L2),
    Case(
        "from any MAC address, out",
        ipv4(OUTSIDE, 8, OUT4, "10.0.0.1"),
        *FORWARD,
        ipv4(OUTSIDE, PARENT, OUT4, "10.0.0.1"),
        L2,
    ),
    Case("another protocol, out", raw(OUTSIDE, 1), *FORWARD, raw(OUTSIDE, PARENT), L2),
    Case(
        "tagged, out",
        ipv4(OUTSIDE, 1, OUT4, "10.0.0.1", tagged(5)),
        *FORWARD,
        ipv4(OUTSIDE, PARENT, OUT4, "10.0.0.1", tagged(5)),
        L2,
    ),
    Case(
        "to another child's IP address by a neighbour",
        ipv4(OUTSIDE, 1, "10.0.0.2", "10.0.0.1"),
        *FORWARD,
        ipv4(OUTSIDE, PARENT, "10.0.0.2", "10.0.0.1"),
        L2,
    ),
    Case(
        "to another child, by way of a switch",
        ipv4(PARENT, 1, "10.0.0.2", "10.0.0.1"),
        *FORWARD,
        ipv4(PARENT, PARENT, "10.0.0.2", "10.0.0.1"),
        L2,
        ("vepa",),
    ),
    Case(
        "ARP request",
        arp(BROADCAST, 1, 1, (mac(1), "10.0.0.1"), (ZERO, OUT4)),
        *ON,
        arp(BROADCAST, PARENT, 1, (PARENT, "10.0.0.1"), (ZERO, OUT4)),
        L2,
    ),
    Case(
        "ARP announcement",
        arp(BROADCAST, 1, 1, (mac(1), "10.0.0.1"), (mac(1), "10.0.0.1")),
        *ON,
        arp(BROADCAST, PARENT, 1, (PARENT, "10.0.0.1"), (mac(1), "10.0.0.1")),
        L2,
    ),
    Case(
        "ARP reply",
        arp(OUTSIDE, 1, 2, (mac(1), "10.0.0.1"), (mac(9), OUT4)),
        *FORWARD,
        arp(OUTSIDE, PARENT, 2, (PARENT, "10.0.0.1"), (mac(9), OUT4)),
        L2,
    ),
    Case(
        "ARP for somebody else keeps what it says",
        arp(OUTSIDE, 1, 2, (mac(7), "10.0.0.7"), (mac(9), OUT4)),
        *FORWARD,
        arp(OUTSIDE, PARENT, 2, (mac(7), "10.0.0.7"), (mac(9), OUT4)),
        L2,
    ),
    Case(
        "neighbour solicitation",
        solicit(ASKED, 1, "fd00::1", OUT6, mac(1)),
        *ON,
        solicit(ASKED, PARENT, "fd00::1", OUT6, PARENT),
        L2,
    ),
    Case(
        "neighbour advertisement",
        advertise(OUTSIDE, 1, "fd00::1", OUT6, mac(1)),
        *FORWARD,
        advertise(OUTSIDE, PARENT, "fd00::1", OUT6, PARENT),
        L2,
    ),
    Case(
        "an advertisement that came through a router keeps what it says",
        nd(OUTSIDE, 1, "fd00::1", OUT6, ICMPv6ND_NA(tgt="fd00::1"), ICMPv6NDOptDstLLAddr(lladdr=mac(1)), hlim=254),
        *FORWARD,
        nd(OUTSIDE, PARENT, "fd00::1", OUT6, ICMPv6ND_NA(tgt="fd00::1"), ICMPv6NDOptDstLLAddr(lladdr=mac(1)), hlim=254),
        L2,
    ),
    Case(
        "looks whether its address is free",
        nd(ASKED, 1, "::", "ff02::1:ff00:1", ICMPv6ND_NS(tgt="fd00::1")),
        *ON,
        nd(ASKED, PARENT, "::", "ff02::1:ff00:1", ICMPv6ND_NS(tgt="fd00::1")),
        L2,
    ),
    Case(
        "router solicitation",
        nd(ALL_NODES, 1, "fe80::1", "ff02::2", ICMPv6ND_RS(), ICMPv6NDOptSrcLLAddr(lladdr=mac(1))),
        *ON,
        nd(ALL_NODES, PARENT, "fe80::1", "ff02::2", ICMPv6ND_RS(), ICMPv6NDOptSrcLLAddr(lladdr=PARENT)),
        L2,
    ),
    Case(
        "router advertisement, the address in its last option",
        nd(
            ALL_NODES,
            1,
            "fe80::1",
            "ff02::1",
            ICMPv6ND_RA(),
            ICMPv6NDOptMTU(),
            ICMPv6NDOptPrefixInfo(prefix="fd01::"),
            ICMPv6NDOptSrcLLAddr(lladdr=mac(1)),
        ),
        *ON,
        nd(
            ALL_NODES,
            PARENT,
            "fe80::1",
            "ff02::1",
            ICMPv6ND_RA(),
            ICMPv6NDOptMTU(),
            ICMPv6NDOptPrefixInfo(prefix="fd01::"),
            ICMPv6NDOptSrcLLAddr(lladdr=PARENT),
        ),
        L2,
    ),
    Case(
        "broadcast",
        ipv4(BROADCAST, 1, "10.0.0.255", "10.0.0.1"),
        *ON,
        ipv4(BROADCAST, PARENT, "10.0.0.255", "10.0.0.1"),
        L2,
    ),
    Case("a pause frame", raw(PAUSE, 1, 0x8808), *PROTOCOL, types=L2),
    Case(
        "as long as the MTU, header and a tag",
        ipv4(OUTSIDE, 1, OUT4, "10.0.0.1", size=1476),
        *FORWARD,
        ipv4(OUTSIDE, PARENT, OUT4, "10.0.0.1", size=1476),
        L2,
    ),
    Case("a byte longer", ipv4(OUTSIDE, 1, OUT4, "10.0.0.1", size=1477), "DROP_MTU", DROP, types=DIRECT),
    Case(
        "ARP request is answered",
        arp(BROADCAST, 1, 1, (mac(1), "10.0.0.1"), (ZERO, OUT4)),
        *REPLY,
        arp(1, PARENT, 2, (PARENT, OUT4), (mac(1), "10.0.0.1")),
        L3,
    ),
    Case(
        "ARP request is answered for the stack",
        arp(BROADCAST, 1, 1, (mac(1), "10.0.0.1"), (ZERO, OUT4)),
        *REPLY,
        arp(1, PORTS[1], 2, (PORTS[1], OUT4), (mac(1), "10.0.0.1")),
        L3S,
    ),
    Case(
        "neighbour solicitation is answered",
        solicit(ASKED, 1, "fd00::1", OUT6, mac(1)),
        *REPLY,
        advertise(1, PARENT, OUT6, "fd00::1", PARENT),
        L3,
    ),
    Case(
        "neighbour solicitation is answered for the stack",
        solicit(ASKED, 1, "fd00::1", OUT6, mac(1)),
        *REPLY,
        advertise(1, PORTS[1], OUT6, "fd00::1", PORTS[1]),
        L3S,
    ),
    Case(
        "ARP announcement, routed", arp(BROADCAST, 1, 1, (mac(1), "10.0.0.8"), (ZERO, "10.0.0.8")), *GROUP, types=ROUTED
    ),
    Case(
        "looks whether its address is free, routed",
        nd(ASKED, 1, "::", "ff02::1:ff00:9", ICMPv6ND_NS(tgt="fd00::9")),
        *GROUP,
        types=ROUTED,
    ),
    Case("broadcast, routed", ipv4(BROADCAST, 1, "10.0.0.255", "10.0.0.1"), *GROUP, types=ROUTED),
    Case("multicast, routed", ipv4(MULTICAST, 1, "224.0.0.251", "10.0.0.1"), *GROUP, types=ROUTED),
    Case("neither IPv4 nor IPv6", raw(OUTSIDE, 1), *PROTOCOL, types=ROUTED),
    Case("tagged, routed", ipv4(PARENT, 1, OUT4, "10.0.0.1", tagged(5)), *PROTOCOL, types=ROUTED),
    Case(
        "an IPv4 header that is too short, routed",
        made(PARENT, 1, IP(src="10.0.0.1", dst=OUT4, ihl=4), Raw(bytes(30))),
        *PROTOCOL,
        types=ROUTED,
    ),
    Case("an ARP reply, routed", arp(PARENT, 1, 2, (mac(1), "10.0.0.1"), (PARENT, OUT4)), *PROTOCOL, types=L3),
    Case("an ARP reply to the stack", arp(PORTS[1], 1, 2, (mac(1), "10.0.0.1"), (PORTS[1], OUT4)), *LOCAL, types=L3S),
    Case("IPv4 to the stack", ipv4(PORTS[1], 1, OUT4, "10.0.0.1"), *ROUTE, types=L3S),
    Case("IPv6 to the stack", ipv6(PORTS[1], 1, OUT6, "fd00::1"), *ROUTE, types=L3S),
]
