# SPDX-License-Identifier: Apache-2.0
"""Packets that become answers to their senders (lib/answer.h): whole frames as scapy builds them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6PacketTooBig, ICMPv6TimeExceeded

from tests.datapath.frames import BROADCAST, ICMP, IP, TCP, Dot1Q, Ether, IPOption_NOP, IPv6, Packet, Raw
from tests.datapath.rewrite_packets import IPV4, IPV6, MACS, PORTLESS, V4, V6, Build, tcp, udp, v4, v6
from tests.datapath.rewrite_rig import Rewriter

BACK = {"src": MACS["dst"], "dst": MACS["src"]}
LONGEST4, LONGEST6 = 548, 1232  # bytes quoted
FILLER = Raw(bytes(range(256)) * 6)


def from4(source: str, dest: str, **fields: int) -> Packet:
    return Ether(**BACK) / IP(src=source, dst=dest, **{"flags": "DF", "id": 0, "ttl": 64, "tos": 0xC0, **fields})


def from6(source: str, dest: str) -> Packet:
    return Ether(**BACK) / IPv6(src=source, dst=dest, hlim=64)


def error4(packet: Packet, source: str = "", said: Packet | None = None) -> bytes:
    """The ICMP error about PACKET, port unreachable or what else is SAID."""
    ip = packet[IP]
    header = from4(source or ip.dst, ip.src, tos=0xC0 | (ip.tos & 0x1E))
    return bytes(header / (said or ICMP(type=3, code=3)) / Raw(bytes(packet)[14:][:LONGEST4]))


def error6(packet: Packet, source: str = "", said: Packet | None = None) -> bytes:
    ip = packet[IPv6]
    header = from6(source or ip.dst, ip.src)
    return bytes(header / (said or ICMPv6DestUnreach(code=4)) / Raw(bytes(packet)[14:][:LONGEST6]))


def answered() -> list[Any]:
    found = []
    for version, table, ends in ((4, IPV4, V4), (6, IPV6, V6)):
        for name, build in table.items():
            if "fragment" not in name or not any(one in name for one in PORTLESS):
                found.append(pytest.param(build(ends), id=f"IPv{version} {name}"))
    return found


def trimmed(rewriter: Rewriter, frame: bytes, quote: int) -> bool:
    """Is the sum of a device forgotten, since the frame loses something at its end?"""
    return rewriter.summed and len(frame) - 14 > quote


@pytest.mark.parametrize("packet", answered())
def test_unreachable(rewriter: Rewriter, packet: Packet) -> None:
    frame, ipv6 = bytes(packet), IPv6 in packet
    if trimmed(rewriter, frame, LONGEST6 if ipv6 else LONGEST4):
        rewriter = rewriter.unsummed()
    done = rewriter.unreachable(frame, 1 if ipv6 else 3, 4 if ipv6 else 3)
    assert done.done
    assert done.frame == (error6(packet) if ipv6 else error4(packet))


@pytest.mark.parametrize("size", [*range(40), 505, 518, 519, 520, 521, 1000, 1183, 1184, 1185, 1400])
def test_quotes_of_any_size(rewriter: Rewriter, size: int) -> None:
    """Also of packets that are shorter than the least frame, which the answer may not have padding from."""
    some = Raw(FILLER.load[:size])
    for packet, kind, code, wanted, longest in (
        (v4(V4, tos=0x1F) / udp(V4) / some, 3, 3, error4, LONGEST4),
        (v6(V6) / udp(V6) / some, 1, 4, error6, LONGEST6),
    ):
        for padding in (0, 60 - len(packet)):
            frame = bytes(packet) + b"\xff" * max(0, padding)
            by = rewriter.unsummed() if trimmed(rewriter, frame, min(longest, len(packet) - 14)) else rewriter
            done = by.unreachable(frame, kind, code)
            assert done.done
            assert done.frame == wanted(packet)


def test_other_errors_and_sources(rewriter: Rewriter) -> None:
    """The 32 bits behind the checksum as the kind of error has them."""
    four, six = v4(V4) / tcp(V4), v6(V6) / tcp(V6)
    done = rewriter.unreachable(bytes(four), 3, 4, 1400, "10.0.1.254")
    assert done.frame == error4(four, "10.0.1.254", ICMP(type=3, code=4, nexthopmtu=1400))
    done = rewriter.unreachable(bytes(four), 11, 0, 0, "10.0.1.254")
    assert done.frame == error4(four, "10.0.1.254", ICMP(type=11, code=0))
    done = rewriter.unreachable(bytes(six), 2, 0, 1280, "fd01::fe")
    assert done.frame == error6(six, "fd01::fe", ICMPv6PacketTooBig(mtu=1280))
    done = rewriter.unreachable(bytes(six), 3, 0, 0, "fd01::fe")
    assert done.frame == error6(six, "fd01::fe", ICMPv6TimeExceeded())


UNANSWERED: dict[str, Callable[[], Packet]] = {
    "an error": lambda: v4(V4) / ICMP(type=3) / Raw(bytes(IP() / udp(V4))),
    "an ICMPv6 error": lambda: v6(V6) / ICMPv6DestUnreach() / Raw(bytes(IPv6() / udp(V6))),
    "a later fragment": lambda: IPV4["later fragment"](V4),
    "a later fragment of IPv6": lambda: IPV6["later fragment"](V6),
    "to all stations": lambda: Ether(src=MACS["src"], dst=BROADCAST) / (v4(V4) / tcp(V4)).payload,
    "to a group": lambda: v4(replace(V4, dest="224.0.0.9")) / tcp(V4),
    "to all hosts": lambda: v4(replace(V4, dest="255.255.255.255")) / tcp(V4),
    "from a group": lambda: v4(replace(V4, source="224.0.0.9")) / tcp(V4),
    "from nobody": lambda: v4(replace(V4, source="0.0.0.0")) / tcp(V4),
    "to a group of IPv6": lambda: v6(replace(V6, dest="ff02::9")) / tcp(V6),
    "from a group of IPv6": lambda: v6(replace(V6, source="ff02::9")) / tcp(V6),
    "from nobody in IPv6": lambda: v6(replace(V6, source="::")) / tcp(V6),
    "behind a tag": lambda: Ether(**MACS) / Dot1Q(vlan=5) / (v4(V4) / tcp(V4)).payload,
}


@pytest.mark.parametrize("name", UNANSWERED)
def test_what_is_not_answered(rewriter: Rewriter, name: str) -> None:
    frame = bytes(UNANSWERED[name]())
    for done in (rewriter.unreachable(frame, 3, 3), rewriter.reset(frame)):
        assert not done.done
        if "tag" not in name or rewriter.hook == "xdp":  # the kernel takes it out of the frame
            assert done.frame == frame


def reset_of(packet: Packet) -> bytes:
    """By RFC 9293 3.5.2 and nf_send_reset()."""
    segment = packet[TCP]
    header = (
        from6(packet[IPv6].dst, packet[IPv6].src) if IPv6 in packet else from4(packet[IP].dst, packet[IP].src, tos=0)
    )
    size = len(segment.payload) + bool(segment.flags.S) + bool(segment.flags.F)
    said = (
        TCP(flags="R", seq=segment.ack)
        if segment.flags.A
        else TCP(flags="RA", seq=0, ack=(segment.seq + size) & 0xFFFFFFFF)
    )
    said.sport, said.dport, said.window = segment.dport, segment.sport, 0
    return bytes(header / said)


SEGMENTS: dict[str, Build] = {
    "SYN": lambda e: tcp(e, flags="S", options=[("MSS", 1460)]),
    "SYN at the end of numbers": lambda e: tcp(e, flags="S", seq=0xFFFFFFFF),
    "SYN with data": lambda e: tcp(e, flags="S") / FILLER,
    "ACK": lambda e: tcp(e, flags="A", ack=0x12345678),
    "data": lambda e: tcp(e, ack=0x12345678) / FILLER,
    "FIN": lambda e: tcp(e, flags="F") / Raw(b"bye"),
    "no flag": lambda e: tcp(e, flags="", ack=5) / Raw(b"?"),
}


@pytest.mark.parametrize("name", SEGMENTS)
@pytest.mark.parametrize("version", [4, 6])
def test_reset(rewriter: Rewriter, name: str, version: int) -> None:
    make, ends = (v4, V4) if version == 4 else (v6, V6)
    packet = make(ends) / SEGMENTS[name](ends)
    if trimmed(rewriter, bytes(packet), 40 if version == 4 else 60):
        rewriter = rewriter.unsummed()
    done = rewriter.reset(bytes(packet))
    assert done.done
    assert done.frame == reset_of(packet)


@pytest.mark.parametrize("flags", ["A", ""])
def test_a_reset_that_goes_on(rewriter: Rewriter, flags: str) -> None:
    """In the place of the segment: for its receiver the connection is over."""
    packet = v4(V4) / tcp(V4, flags=flags, ack=9)
    done = rewriter.reset(bytes(packet), back=False)
    header = Ether(**MACS) / IP(src=V4.source, dst=V4.dest, flags="DF", id=0)
    ack = 9 if flags else 0
    wanted = header / TCP(sport=V4.sport, dport=V4.dport, flags="R" + flags, seq=77, ack=ack, window=0)
    assert done.frame == bytes(wanted)


NO_RESETS: dict[str, Callable[[], Packet]] = {
    "a reset": lambda: v4(V4) / tcp(V4, flags="RA"),
    "UDP": lambda: v4(V4) / udp(V4),
    "IP options": lambda: v4(V4, options=[IPOption_NOP()] * 4) / tcp(V4),
    "an extension header": lambda: IPV6["hop-by-hop, TCP"](V6),
    "a fragment": lambda: v4(V4, flags="MF") / tcp(V4),
}


@pytest.mark.parametrize("name", NO_RESETS)
def test_what_is_not_reset(rewriter: Rewriter, name: str) -> None:
    frame = bytes(NO_RESETS[name]())
    done = rewriter.reset(frame)
    assert not done.done
    assert done.frame == frame
