# SPDX-License-Identifier: Apache-2.0
"""Packets that are read, rewritten and answered, as scapy builds them from the ends of their flow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scapy.layers.l2 import GRE

from tests.datapath.frames import (
    AH,
    ICMP,
    IP,
    SCTP,
    TCP,
    UDP,
    Ether,
    ICMPv6EchoRequest,
    IPOption_NOP,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    Packet,
    Raw,
    SCTPChunkData,
)
from tests.datapath.rewrite_rig import Ends

MACS = {"src": "02:00:00:00:0a:01", "dst": "02:00:00:00:01:00"}
V4, V6 = Ends("10.0.1.2", 1234, "192.0.2.1", 80), Ends("fd01::1:2", 1234, "2001:db8::1", 80)
TO4, TO6 = Ends("198.51.100.7", 54321, "10.96.3.4", 8080), Ends("2001:db8:ffff::7", 54321, "fd02:3::4", 8080)
IDENT = 0x1234

Build = Callable[[Ends], Packet]


def v4(ends: Ends, **fields: Any) -> Packet:
    return Ether(**MACS) / IP(src=ends.source, dst=ends.dest, **{"ttl": 17, "id": IDENT, **fields})


def v6(ends: Ends, **fields: Any) -> Packet:
    return Ether(**MACS) / IPv6(src=ends.source, dst=ends.dest, **{"hlim": 17, "tc": 0x68, **fields})


def tcp(ends: Ends, **fields: Any) -> Packet:
    return TCP(sport=ends.sport, dport=ends.dport, **{"flags": "PA", "seq": 77, **fields})


def udp(ends: Ends, **fields: Any) -> Packet:
    return UDP(sport=ends.sport, dport=ends.dport, **fields)


def sctp(ends: Ends, size: int = 40) -> Packet:
    return SCTP(sport=ends.sport, dport=ends.dport, tag=99) / SCTPChunkData(data=bytes(range(size)))


def echo(ends: Ends, **fields: Any) -> Packet:
    return ICMP(**{"type": 8, "id": ends.sport, "seq": 3, **fields})


def echo6(ends: Ends) -> Packet:
    return ICMPv6EchoRequest(id=ends.sport, seq=3)


def checked(packet: Packet, ends: Ends) -> Packet:
    """UDP over IPv6 behind a header that scapy does not look behind."""
    return Raw(bytes(IPv6(bytes(IPv6(src=ends.source, dst=ends.dest) / packet)))[40:])


ODD = Raw(b"of odd length")
IPV4: dict[str, Build] = {
    "TCP": lambda e: v4(e, flags="DF", tos=0x10) / tcp(e) / ODD,
    "TCP with options": lambda e: v4(e) / tcp(e, flags="S", options=[("MSS", 1460), ("NOP", None)]),
    "TCP, 1500 bytes": lambda e: v4(e) / tcp(e) / Raw(bytes(range(256)) * 5 + bytes(180)),
    "UDP": lambda e: v4(e) / udp(e) / ODD,
    "UDP, nothing in it": lambda e: v4(e) / udp(e),
    "UDP without checksum": lambda e: v4(e) / udp(e, chksum=0) / ODD,
    "ICMP echo": lambda e: v4(e) / echo(e) / ODD,
    "ICMP timestamp": lambda e: v4(e) / echo(e, type=13),
    "SCTP": lambda e: v4(e) / sctp(e),
    "SCTP, long": lambda e: v4(e) / sctp(e, 255) / Raw(bytes(1101)),
    "GRE": lambda e: v4(e) / GRE() / IP() / UDP(),
    "options": lambda e: v4(e, options=[IPOption_NOP()] * 40) / tcp(e) / ODD,
    "options, UDP": lambda e: v4(e, options=[IPOption_NOP()] * 4) / udp(e) / ODD,
    "first fragment": lambda e: v4(e, flags="MF") / udp(e, len=1000) / Raw(bytes(range(64))),
    "later fragment": lambda e: v4(e, frag=9, proto=17) / Raw(bytes(range(64))),
    "last fragment of TCP": lambda e: v4(e, frag=9, proto=6) / ODD,
}
IPV6: dict[str, Build] = {
    "TCP": lambda e: v6(e) / tcp(e) / ODD,
    "UDP": lambda e: v6(e) / udp(e) / ODD,
    "UDP without checksum": lambda e: v6(e) / udp(e, chksum=0) / ODD,
    "ICMPv6 echo": lambda e: v6(e) / echo6(e) / ODD,
    "SCTP": lambda e: v6(e) / sctp(e),
    "GRE": lambda e: v6(e) / GRE() / IP() / UDP(),
    "hop-by-hop, TCP": lambda e: v6(e) / IPv6ExtHdrHopByHop() / tcp(e),
    "four headers": lambda e: v6(e) / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / IPv6ExtHdrRouting(segleft=0)
    / IPv6ExtHdrDestOpt() / udp(e) / ODD,
    "authentication": lambda e: v6(e) / AH(nh=17, payloadlen=4, icv=bytes(12)) / checked(udp(e) / ODD, e),
    "atomic fragment": lambda e: v6(e) / IPv6ExtHdrFragment(id=IDENT) / udp(e) / ODD,
    "first fragment": lambda e: v6(e) / IPv6ExtHdrFragment(id=IDENT, m=1) / udp(e) / Raw(bytes(64)),
    "later fragment": lambda e: v6(e) / IPv6ExtHdrFragment(id=IDENT, offset=9, nh=17) / Raw(bytes(64)),
    "later fragment behind another header": lambda e: v6(e) / IPv6ExtHdrHopByHop()
    / IPv6ExtHdrFragment(id=IDENT, offset=9, nh=60) / Raw(bytes(64)),
}  # fmt: skip
PORTLESS = ("GRE", "later", "last")  # in the names of packets without ports
